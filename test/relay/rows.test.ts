import { expect } from 'vitest'
import { fieldsOf } from '../../testkit/entry.js'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'
import { rejected, upTo } from './rows-env.js'

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

test('a row over the size limit becomes an incident with its whole content, its neighbours continue, and the slot passes it', async ({
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
  // Counted a moment after it is kept.
  await until(async () => (await relay.metric('outrider_events_rejected_total')) === 1, { message: 'it to be counted' })

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

test('rows that were written before a column was renamed are published by the mapping that names the old column', async ({
  env,
}) => {
  const first = await env.insert('orders')
  await env.postgres.query('alter table outrider.outbox rename column correlation_id to other_id')
  const relay = await env.streamingRelay()
  expect(await upTo(env, 'orders', first)).toEqual([first])
  expect(await relay.stop()).toBe(0)
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

const row = (id: string, aggregatetype: string | null, aggregateid: string, type: string | null, payload: string) => ({
  id,
  aggregatetype,
  aggregateid,
  type,
  payload,
})
