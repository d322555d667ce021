import { describe, expect } from 'vitest'
import { closeIncident } from '../../src/postgres/state/incidents.js'
import { until } from '../../testkit/services/index.js'
import { saved } from './redis-loss-env.js'
import { relayTest as test } from './relay-env.js'
import {
  endOf,
  hasLength,
  holdRequest,
  insertMany,
  killedAt,
  leftovers,
  requestOf,
  runRepublish,
} from './republish-env.js'
import { rejected } from './rows-env.js'

describe.concurrent('outrider republish', () => {
  killedAt([['open'], ['recorded'], ['done']])

  test('appends to another stream, also to a partitioned one, and to that alone', async ({ createEnv }) => {
    const env = await createEnv({ partitions: { replay: 3 } })
    await env.streamingRelay()
    const ids = await insertMany(env, 40)
    await hasLength(env.redis, 'orders', ids.length)
    expect(await runRepublish(env, { stream: 'orders', to: 'replay' })).toMatchObject({ code: 0 })
    expect(await env.ids('orders')).toEqual(ids)
    const parts = await Promise.all([0, 1, 2].map((n) => env.ids(`replay:${n}`)))
    expect(parts.flat().sort()).toEqual([...ids].sort())
    expect(parts.every(({ length }) => length > 0 && length < ids.length)).toBe(true)
  })

  test('waits while a gap is open, says so, and begins once it is closed', async ({ env }) => {
    const relay = await env.streamingRelay()
    const ids = [await env.insert('orders'), await env.insert('orders')]
    await saved(env, 1, ids[1])
    await env.redis.flushall()
    await relay.is({ role: 'halted' })
    const request = await requestOf(env, { ids: [ids[1]!] })
    const { rows } = await env.postgres.query("select id::text from outrider.incident where kind = 'gap'")
    await closeIncident(env.postgres, rows[0].id)
    expect(await endOf(env, request)).toMatchObject({ state: 'done', appended: '1' })
    expect(await env.ids('orders')).toEqual([ids[1]])
  })

  test('appends a rejected row that is named, once the limit lets it pass', async ({ env }) => {
    const small = await env.streamingRelay({ OUTRIDER_MAX_EVENT_BYTES: '10KiB' })
    const large = await env.insert('orders', 'x'.repeat(20_000))
    const fits = await env.insert('orders')
    await until(async () => (await rejected(env)).length === 1)
    // A filter leaves it out.
    expect(JSON.parse((await runRepublish(env, { stream: 'orders' })).text)).toMatchObject({ found: 1, rejected: 0 })
    await small.stop()
    await env.streamingRelay()
    expect(JSON.parse((await runRepublish(env, { ids: [large] })).text)).toMatchObject({ appended: 1, rejected: 0 })
    expect(await env.ids('orders')).toEqual([fits, fits, large])
  })

  test('is refused where Redis has no room for the rows, or refuses the stream', async ({ env }) => {
    await env.streamingRelay()
    const ids = await insertMany(env, 5_000)
    await hasLength(env.redis, 'orders', ids.length)
    await env.redis.set('taken', 'not a stream')
    await expect(runRepublish(env, { ids: [ids[0]!], to: 'taken' })).rejects.toThrow(
      /^Request 1 was refused: Redis refuses the stream taken \(wrong_type\)/,
    )
    const used = Number(/used_memory:(\d+)/.exec(await env.redis.info('memory'))?.[1])
    await env.redis.config('SET', 'maxmemory', String(used + 2_000_000))
    await expect(runRepublish(env, { stream: 'orders' })).rejects.toThrow(
      /^Request 2 was refused: Expected room in Redis for 5000 events, .* Nothing was appended/,
    )
    await env.redis.config('SET', 'maxmemory', '0')
    expect([await env.redis.xlen('orders'), await leftovers(env)]).toEqual([ids.length, 0])
  })

  test('can be cancelled: what was appended stays, and the next one begins', async ({ env }) => {
    await env.streamingRelay()
    const ids = await insertMany(env, 10)
    await hasLength(env.redis, 'orders', ids.length)
    const held = await holdRequest(env, 'open')
    const request = await requestOf(env, { stream: 'orders' })
    await held.reached()
    expect(await runRepublish(env, { cancel: request })).toMatchObject({ code: 0 })
    await held.release()
    await expect(runRepublish(env, { cancel: request })).rejects.toThrow(/has ended before: it is cancelled/)
    const next = await requestOf(env, { ids: [ids[0]!] })
    expect(await endOf(env, next)).toMatchObject({ state: 'done', appended: '1' })
    expect(await endOf(env, request)).toMatchObject({ state: 'cancelled' })
    expect((await env.ids('orders')).filter((id) => id === ids[0]).length).toBeLessThanOrEqual(3)
  })
})
