import { expect } from 'vitest'
import { fieldsOf } from '../../testkit/entry.js'
import { freshRedis, needsProcess, startPostgres, startProxy, until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

const rejected = async (
  env: RelayEnv,
): Promise<{ reason: string; stream: string | null; row: Record<string, string> }[]> =>
  (
    await env.postgres.query('select reason, stream, "row" from outrider.incident where kind = $1 order by position', [
      'rejected',
    ])
  ).rows

/** Waits until the last event of a stream is this one; the ids of all of them. */
async function upTo(env: RelayEnv, stream: string, id: string): Promise<string[]> {
  await until(async () => (await env.ids(stream)).at(-1) === id, { message: `event ${id} at the end of ${stream}` })
  return env.ids(stream)
}

test('updates, deletes, truncates, savepoints, prepared transactions: what is published is what was inserted and committed', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres({ settings: { max_prepared_transactions: '10' } })
  onTestFinished(() => server.remove())
  const env = await createEnv({ database: await server.createDatabase() })
  await env.streamingRelay()
  const run = (sql: string, values?: unknown[]) => env.postgres.query(sql, values)
  const expected: string[] = []

  expected.push(await env.insert('orders'))
  await run("update outrider.outbox set type = 'test.changed'")
  await run('delete from outrider.outbox')
  expected.push(await env.insert('orders'))
  await run('truncate outrider.outbox')

  await run('begin')
  expected.push(await env.insert('orders'))
  await run('savepoint undone')
  await env.insert('orders')
  await run('rollback to undone')
  await run('savepoint kept')
  expected.push(await env.insert('orders'))
  await run('release kept')
  await run('commit')

  // Gone from the table when it commits, and an event all the same: it was inserted.
  await run('begin')
  const gone = await env.insert('orders')
  expected.push(gone)
  await run('delete from outrider.outbox where id = $1', [gone])
  await run('commit')

  await run('begin')
  const prepared = await env.insert('orders')
  await run("prepare transaction 'kept'")
  await run('begin')
  await env.insert('orders')
  await run("prepare transaction 'undone'")
  const between = await env.insert('orders')
  expected.push(between)
  expect(await upTo(env, 'orders', between)).toEqual(expected)
  await run("commit prepared 'kept'")
  await run("rollback prepared 'undone'")
  expected.push(prepared)
  expected.push(await env.insert('orders'))
  expect(await upTo(env, 'orders', expected.at(-1)!)).toEqual(expected)
})

test('a row over the size limit becomes an incident with its whole content, its neighbours go on, and the slot passes it', async ({
  env,
}) => {
  const relay = await env.streamingRelay({ OUTRIDER_MAX_EVENT_BYTES: '10KiB' })
  const text = 'Ωμέγα 🚀 "quoted" '.repeat(1000)
  await env.postgres.query('begin')
  const before = await env.insert('orders')
  const large = await env.insert('orders', { text }, 'order-1')
  const after = await env.insert('orders')
  await env.postgres.query('commit')
  expect(await upTo(env, 'orders', after)).toEqual([before, after])

  const [incident] = await until(async () => {
    const found = await rejected(env)
    return found.length === 1 ? found : undefined
  })
  expect(incident).toMatchObject({
    reason: 'too_large',
    stream: 'orders',
    row: { id: large, stream: 'orders', type: 'test.happened', subject: 'order-1', data: JSON.stringify({ text }) },
  })
  expect(await relay.metric('outrider_events_rejected_total')).toBe(1)

  const { rows } = await env.postgres.query('select pg_current_wal_lsn()::text as lsn')
  await env.insert('orders')
  await until(
    async () =>
      (
        await env.postgres.query(
          'select confirmed_flush_lsn > $2 as past from pg_replication_slots where slot_name = $1',
          [env.slot, rows[0].lsn],
        )
      ).rows[0].past,
    { message: 'the slot to pass the rejected row' },
  )
  // Read again, it is not rejected twice.
  await relay.kill()
  await env.streamingRelay({ OUTRIDER_MAX_EVENT_BYTES: '10KiB' })
  await upTo(env, 'orders', await env.insert('orders'))
  expect(await rejected(env)).toHaveLength(1)
})

test('the size limit is that of `data` alone, to the byte, however long the other columns are', async ({ env }) => {
  await env.streamingRelay({ OUTRIDER_MAX_EVENT_BYTES: '10KiB' })
  const insert = async (bytes: number, wide = false) => {
    const { rows } = await env.postgres.query(
      `insert into outrider.outbox (stream, type, data, subject, correlation_id, causation_id, headers)
       values ($1, $2, $3, $4, $5, $5, $6) returning id`,
      wide
        ? ['s'.repeat(200), '🚀'.repeat(255), text(bytes), '🚀'.repeat(1024), '🚀'.repeat(255), header(8192)]
        : ['orders', 't', text(bytes), null, null, '{}'],
    )
    return rows[0].id as string
  }
  const text = (bytes: number) => JSON.stringify('x'.repeat(bytes - 2))
  const header = (bytes: number) => JSON.stringify({ a: 'x'.repeat(bytes - 8) })
  const wide = await insert(10_240, true)
  const ids = [await insert(10_239), await insert(10_240)]
  const large = await insert(10_241)
  ids.push(await insert(10))
  expect(await upTo(env, 'orders', ids.at(-1)!)).toEqual(ids)
  expect(await upTo(env, 's'.repeat(200), wide)).toEqual([wide])
  const [incident, ...others] = await until(async () => {
    const found = await rejected(env)
    return found.length > 0 && found
  })
  expect(others).toEqual([])
  expect(incident).toMatchObject({ reason: 'too_large', row: { id: large } })
  const { rows } = await env.postgres.query('select detail from outrider.incident')
  expect(rows).toMatchObject([{ detail: { message: 'expected at most 10240 bytes of data, found 10241' } }])
})

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

test('columns added, renamed and dropped, between inserts and within a transaction: the rows are read by name', async ({
  env,
}) => {
  const relay = await env.streamingRelay()
  const expected: string[] = []
  const changes = [
    'alter table outrider.outbox add column extra text default $$x$$',
    'alter table outrider.outbox rename column extra to other',
    'alter table outrider.outbox drop column other',
  ]
  for (const transaction of [false, true]) {
    if (transaction) await env.postgres.query('begin')
    for (const change of changes) {
      await env.postgres.query(change)
      expected.push(await env.insert('orders', { change }, `order-${expected.length}`))
    }
    if (transaction) await env.postgres.query('commit')
  }
  expect(await upTo(env, 'orders', expected.at(-1)!)).toEqual(expected)
  const entries = await env.redis.xrange('orders', '-', '+')
  expect(entries.map(([, pairs]) => fieldsOf(pairs).subject)).toEqual(expected.map((_, i) => `order-${i}`))
  expect(entries.map(([, pairs]) => JSON.parse(fieldsOf(pairs).data ?? '').change)).toEqual([...changes, ...changes])
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
})

test('a column that the mapping names is gone: halted with its name, nothing skipped; without it in the mapping it goes on', async ({
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

test("a team's own table in Debezium's layout: its rows are published by the mapping, and what cannot be becomes an incident", async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv({
    outbox: {
      table: 'shop.outbox',
      create: `
        create schema shop;
        create table shop.outbox (
          id uuid primary key default gen_random_uuid(), aggregatetype text, aggregateid text, type text, payload jsonb
        )`,
    },
  })
  const file = await configFile(`
outbox:
  table: shop.outbox
  stream: 'shop.{aggregatetype}'
  columns: { id: id, type: type, subject: aggregateid, data: payload }
`)
  await env.streamingRelay({ OUTRIDER_CONFIG: file })
  const { rows } = await env.postgres.query(
    `insert into shop.outbox (aggregatetype, aggregateid, type, payload) values
       ('order', '42', 'OrderPlaced', '{"total": 99}'),
       (null, '43', 'OrderPlaced', '{"n": 1}'),
       ('order', '44', null, '{"n": 2}'),
       ('no good name', '45', 'OrderPlaced', '{"n": 3}'),
       ('order', null, 'OrderPaid', null)
     returning id`,
  )
  const ids: string[] = rows.map(({ id }) => id)
  expect(await upTo(env, 'shop.order', ids[4]!)).toEqual([ids[0], ids[4]])
  const [first, last] = (await env.redis.xrange('shop.order', '-', '+')).map(([, pairs]) => fieldsOf(pairs))
  expect(first).toMatchObject({ type: 'OrderPlaced', subject: '42', data: '{"total": 99}', id: ids[0] })
  expect(first!.time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/)
  expect(last).not.toHaveProperty('subject')
  expect(last).not.toHaveProperty('data')

  await until(async () => (await rejected(env)).length === 3)
  expect(await rejected(env)).toEqual([
    { reason: 'bad_stream', stream: null, row: row(ids[1]!, null, '43', 'OrderPlaced', '{"n": 1}') },
    {
      reason: 'malformed',
      stream: 'shop.order',
      row: row(ids[2]!, 'order', '44', null, '{"n": 2}'),
    },
    {
      reason: 'bad_stream',
      stream: 'shop.no good name',
      row: row(ids[3]!, 'no good name', '45', 'OrderPlaced', '{"n": 3}'),
    },
  ])
})

test('malformed rows of a mapped table, alone and while a good one is in flight: incidents, and the good ones go on', async ({
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

const row = (id: string, aggregatetype: string | null, aggregateid: string, type: string | null, payload: string) => ({
  id,
  aggregatetype,
  aggregateid,
  type,
  payload,
})
