import type pg from 'pg'
import { expect } from 'vitest'
import type { Wrap } from '../../src/consumer/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { Happened } from './happened.js'

test('an event is done only where wrap has called run and waited for it, and run has not failed', async ({ env }) => {
  const deliver = async (wrap: unknown, n: number) =>
    env
      .consumer({ wrap: wrap as Wrap<pg.PoolClient> })
      .on(Happened, async (event, context) => {
        await effect(event, context)
        if (n === 4) throw new Error('boom')
      })
      .deliver(Happened, { data: { n } })
      .catch(({ message }: Error) => message)
  type Run = () => Promise<unknown>
  expect(await deliver(async () => {}, 1)).toContain('found that run was not called')
  expect(await deliver((_: unknown, run: Run) => void run(), 2)).toContain('found that it still runs')
  expect(await deliver(async (_: unknown, run: Run) => void (await run()), 3)).toBe('done')
  expect(await deliver(async (_: unknown, run: Run) => run().catch(() => {}), 4)).toBe('boom')
  expect((await env.effects()).map(({ n }) => n)).toEqual([3])
})
