import { afterAll, beforeEach, expect, test } from 'vitest'
import { setBucketDefault } from '../../src/postgres/setup/bucket-default.js'
import { needsProcess, type Postgres, startPostgres, until } from '../../testkit/services/index.js'
import { createBucketsEnv } from './buckets-env.js'

const OLD = 3

/** One for all tests of this file. */
let server: Postgres | undefined

beforeEach(async (context) => {
  needsProcess(context)
  server ??= await startPostgres({ settings: { max_prepared_transactions: '5' } })
})

afterAll(() => server?.remove())

async function createEnv() {
  const env = await createBucketsEnv(server)
  await env.insert(OLD)
  return env
}

test('nothing is emptied while a transaction that wrote to the bucket is prepared', async () => {
  const env = await createEnv()
  await env.client.query('begin')
  const id = await env.insert(OLD)
  await env.client.query("prepare transaction 'orphan'")
  await env.checkpoint(80)
  expect(await env.empty(OLD)).toBe('in_use')
  await env.client.query("commit prepared 'orphan'")
  expect(await env.empty(OLD)).toBe('unproven')
  expect(await env.ids(OLD)).toContain(id)
  await env.close()
})

test('a reader of a standby holds up the replay of an emptied bucket as long as the standby permits, and no writer', async () => {
  const env = await createEnv()
  const settings = { max_standby_streaming_delay: '-1', max_prepared_transactions: '5' }
  const standby = await startPostgres({ standbyOf: server!, settings })
  const [reader, other] = [await standby.connect(env.database.name), await standby.connect(env.database.name)]
  const count = `select count(*)::int as rows from outrider.outbox where bucket = ${OLD}`
  const rows = async (client = reader) => (await client.query(count)).rows[0].rows
  await until(async () => (await rows(other)) === 1)
  await reader.query('begin isolation level repeatable read')
  expect(await rows()).toBe(1)
  await env.checkpoint(80)
  expect(await env.empty(OLD)).toBeNull()
  const id = await env.insert(OLD)
  const isWaiting = "select from pg_stat_activity where backend_type = 'startup' and wait_event_type = 'Lock'"
  await until(async () => (await other.query(isWaiting)).rowCount === 1)
  expect(await rows()).toBe(1)
  await reader.query('commit')
  await until(async () => (await reader.query('select from outrider.outbox where id = $1', [id])).rowCount === 1)
  expect(await rows()).toBe(1)
  await reader.end()
  await other.end()
  await standby.remove()
  await env.close()
})

test('inserts do not wait for a synchronous standby that is away while setup changes their bucket', async () => {
  const env = await createEnv()
  await env.client.query('alter table only outrider.outbox alter bucket set default 1')
  await server!.set({ synchronous_standby_names: 'nobody' })
  const setup = await env.database.connect()
  let isDone = false
  const setting = setBucketDefault(setup).finally(() => {
    isDone = true
  })
  let waits = 0
  await until(async () => {
    const cancel = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"
    waits += (await env.client.query(cancel)).rowCount!
    return isDone
  })
  expect([await setting, waits]).toEqual([undefined, 0])
  await server!.set({ synchronous_standby_names: null })
  await setup.end()
  await env.close()
})
