import { expect } from 'vitest'
import { freshRedis, startProxy, until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'
import { upTo } from './rows-env.js'

test('of a row over 8 MiB the incident keeps the small columns and the size of the others', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv({
    outbox: {
      table: 'public.events',
      create: 'create table events (id text, type text, subject text, payload json)',
    },
  })
  const file = await configFile(`
outbox:
  table: public.events
  stream: events
  columns: { id: id, type: type, subject: subject, data: payload }
`)
  const relay = await env.streamingRelay({ OUTRIDER_CONFIG: file })
  const insert = `insert into events
    select $1, 'test.happened', $2, json_build_object('text', repeat('x', $3::int))`
  const small = 's'.repeat(1000)
  await env.postgres.query(insert, ['large', small, 9_000_000])
  await env.postgres.query(insert, ['after', small, 10])
  expect(await upTo(env, 'events', 'after')).toEqual(['after'])
  const { rows } = await env.postgres.query('select event_id, reason, detail, "row" from outrider.incident')
  expect(rows).toEqual([
    {
      event_id: 'large',
      reason: 'too_large',
      detail: {
        message: expect.stringMatching(/at most 1048576 bytes of data, found 9000013/),
        omitted: { payload: 9_000_013 },
      },
      row: { id: 'large', type: 'test.happened', subject: small },
    },
  ])
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
})

test('a column that the mapping names is gone: halted with its name, nothing skipped; without it in the mapping it continues', async ({
  env,
  configFile,
}) => {
  const relay = await env.streamingRelay()
  const before = await env.insert('orders')
  await upTo(env, 'orders', before)
  await env.postgres.query('alter table outrider.outbox rename column correlation_id to other_id')
  const insert = "insert into outrider.outbox (stream, type) values ('orders', 'test.happened') returning id"
  const { rows } = await env.postgres.query(insert)
  await relay.is({ role: 'halted', reason: 'column_missing' })
  expect(await relay.status()).toMatchObject({ code: 503, message: expect.stringContaining('correlation_id') })
  expect(await env.ids('orders')).toEqual([before])
  expect(await relay.stop()).toBe(0)

  // Rows of before the change may come again, and have the old column: the mapping must fit both.
  const file = await configFile(`
outbox:
  table: outrider.outbox
  stream: '{stream}'
  columns: { id: id, type: type, subject: subject, data: data }
`)
  await env.streamingRelay({ OUTRIDER_CONFIG: file })
  expect(await upTo(env, 'orders', rows[0].id)).toEqual([before, rows[0].id])
})

test('malformed rows of a mapped table, alone and while a good one is in flight: incidents, and the good ones continue', async ({
  createEnv,
  configFile,
  onTestFinished,
}) => {
  const redis = await freshRedis()
  const env = await createEnv({
    redis,
    outbox: {
      table: 'public.events',
      create:
        'create table events (id bigint primary key generated always as identity, type text, headers text, payload text)',
    },
  })
  const proxy = await startProxy(Number(new URL(redis.url).port))
  onTestFinished(() => proxy.close())
  const file = await configFile(`
outbox:
  table: public.events
  stream: events
  columns: { id: id, type: type, headers: headers, data: payload }
`)
  const relay = await env.streamingRelay({ OUTRIDER_CONFIG: file, OUTRIDER_REDIS_URL: proxy.url(redis.url) })
  const insert = async (type: string | null, headers: string | null = null, payload = '{}'): Promise<string> => {
    const sql = 'insert into events (type, headers, payload) values ($1, $2, $3) returning id'
    return (await env.postgres.query(sql, [type, headers, payload])).rows[0].id
  }
  const details = async () =>
    (await env.postgres.query('select reason, event_id, detail from outrider.incident order by position')).rows
  const good: string[] = []
  const expected: object[] = []
  for (const [type, headers, payload, message] of [
    [null, null, '{}', /expected a type/],
    ['test.happened', '{"Not Allowed": "x"}', '{}', /Not Allowed/],
    ['test.happened', null, 'no JSON', /expected data as JSON/],
  ] as const) {
    const reject = async () => {
      const id = await insert(type, headers, payload)
      expected.push({ reason: 'malformed', event_id: id, detail: { message: expect.stringMatching(message) } })
      await until(async () => (await details()).length === expected.length, { message: 'the row to be an incident' })
    }
    // Alone: first in the stream, or behind what has arrived.
    await reject()
    good.push(await insert('test.happened', '{"tenant": "a"}'))
    expect(await upTo(env, 'events', good.at(-1)!)).toEqual(good)
    // Behind a good one that is in flight.
    const received = await relay.metric('outrider_events_received_total')
    proxy.pause('down')
    good.push(await insert('test.happened'))
    await until(async () => (await relay.metric('outrider_events_received_total')) !== received)
    await reject()
    proxy.resume('down')
    for (let n = 0; n < 2; n++) {
      good.push(await insert('test.happened'))
      expect(await upTo(env, 'events', good.at(-1)!)).toEqual(good)
    }
  }
  expect(await details()).toEqual(expected)
  expect(await relay.status()).toMatchObject({ code: 200, role: 'active', state: 'streaming' })
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
})
