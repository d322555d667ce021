import { expect } from 'vitest'
import { peakMemoryMiB } from '../../testkit/peak-memory.js'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { committed, expectComplete } from './load.js'
import { relayTest as test } from './relay-env.js'

const ROWS = 300_000

test.runIf(process.platform === 'linux')(
  `${ROWS} rows in one transaction: memory stays bounded, all arrive in order, once, also when the relay is killed in the middle`,
  async ({ createEnv, skip, onTestFinished }) => {
    needsProcess({ skip }, ['postgres'])
    // Its own: a new slot waits for the long transaction of this test.
    const server = await startPostgres()
    onTestFinished(() => server.remove())
    const env = await createEnv({ database: await server.createDatabase() })
    const first = await env.streamingRelay()
    await env.postgres.query(
      `insert into outrider.outbox (stream, type, subject, data)
     select 'orders', 'test.happened', 'subject-' || n % 1000, json_build_object('n', n, 'text', repeat('x', 100))
       from generate_series(1, $1) n`,
      [ROWS],
    )
    await until(async () => (await env.redis.xlen('orders')) > ROWS / 3)
    const peak = peakMemoryMiB(first.pid)
    await first.kill()
    const published = await env.redis.xlen('orders')
    expect(published).toBeLessThan(ROWS)

    const second = await env.relay()
    await until(async () => (await env.redis.xlen('orders')) === ROWS, {
      message: 'all rows to arrive',
    })
    const after = await env.insert('payments')
    await until(async () => (await env.ids('payments')).length === 1)
    expect(await env.ids('payments')).toEqual([after])
    expect(await second.metric('outrider_events_skipped_total')).toBeGreaterThanOrEqual(published)
    expect(Math.max(peak, peakMemoryMiB(second.pid))).toBeLessThan(200)
    expect(await committed(env.database, 'orders')).toHaveLength(ROWS)
    await expectComplete(env, 'orders')
  },
)
