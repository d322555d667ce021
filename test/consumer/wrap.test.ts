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

test('a wrap that calls run a second time fails the attempt, and nothing of either call is committed', async ({
  env,
}) => {
  type Run = () => Promise<unknown>
  const deliver = async (wrap: unknown, failures: number) => {
    let left = failures
    return env
      .consumer({ wrap: wrap as Wrap<pg.PoolClient> })
      .on(Happened, async (event, context) => {
        await effect(event, context)
        if (left-- > 0) throw new Error('boom')
      })
      .deliver(Happened, { data: { n: 1 } })
      .catch(({ message }: Error) => message)
  }
  const second = 'Expected wrap to call run once, found a second call'
  expect(await deliver(async (_: unknown, run: Run) => run().catch(run), 1)).toContain(second)
  expect(await deliver(async (_: unknown, run: Run) => run().then(() => run().catch(() => {})), 0)).toContain(second)
  expect(await deliver(async (_: unknown, run: Run) => Promise.allSettled([run(), run()]), 0)).toContain(second)
  expect(await env.effects()).toEqual([])
})
