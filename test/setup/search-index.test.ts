import type pg from 'pg'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { setup } from '../../src/cli/setup.js'
import { type Config, OWN_OUTBOX } from '../../src/config/schema.js'
import { hasSearchIndex } from '../../src/postgres/outbox/search-index.js'
import { createDatabase, type Database, until } from '../../testkit/services/index.js'
import { type CommandRun, runCommand } from '../support/command.js'

let database: Database
let client: pg.Client

beforeEach(async () => {
  database = await createDatabase()
  client = await database.connect()
  await runCommand(setup, database.url)
})

afterEach(async () => {
  await client.end()
  await database.drop()
})

const index = (columns: string, options: CommandRun = {}) =>
  runCommand(setup, database.url, { ...options, flags: { index: columns, ...options.flags } })
const insert = (from: pg.Client) =>
  from.query("insert into outrider.outbox (stream, type, subject, data) values ('orders', 'placed', 'order-1', '{}')")

test('an index for find covers all partitions, and a second run leaves it', async () => {
  await insert(client)
  const { code, text } = await index('subject, correlation')
  expect([code, text]).toEqual([0, expect.stringContaining('created  index of outrider.outbox by correlation_id')])
  expect(await hasSearchIndex(client, 'subject')).toBe(true)
  expect(await hasSearchIndex(client, 'correlation_id')).toBe(true)
  expect(JSON.parse((await index('subject', { json: true })).text).indexes).toEqual([
    { column: 'subject', state: 'present' },
  ])
  await client.query('set enable_seqscan = off')
  const { rows } = await client.query("explain (format json) select from outrider.outbox where subject = 'order-1'")
  expect(JSON.stringify(rows)).not.toContain('Seq Scan')
})

test('a writer that has its transaction open keeps no other from writing while the index is built', async () => {
  const open = await database.connect()
  const other = await database.connect()
  await other.query("set lock_timeout = '1s'")
  // The parent's entry is there; the build of a partition's index then waits for the transaction.
  await client.query('create index outbox_subject on only outrider.outbox (subject)')
  await open.query('begin')
  await insert(open)
  const building = index('subject')
  await expect
    .poll(
      async () =>
        (await client.query("select from pg_stat_progress_create_index where phase like 'waiting%'")).rowCount,
      {
        timeout: 30_000,
      },
    )
    .toBe(1)
  await insert(other)
  expect(await hasSearchIndex(client, 'subject')).toBe(false)
  await open.query('commit')
  expect((await building).code).toBe(0)
  expect(await hasSearchIndex(client, 'subject')).toBe(true)
  await Promise.all([open.end(), other.end()])
})

test('a reader that has its transaction open holds up inserts for a second at most at a time', async () => {
  const reader = await database.connect()
  const writer = await database.connect()
  await client.query('create index outbox_subject on only outrider.outbox (subject)')
  // Built, and not attached yet when the reader comes.
  await client.query('create index outbox_0_subject on outrider.outbox_0 (subject)')
  await reader.query('begin')
  await reader.query("select from outrider.outbox where subject = 'order-1'")
  const building = index('subject')
  // The attach waits for the reader, gives up, and tries again.
  await until(
    async () =>
      (await client.query("select from pg_stat_activity where wait_event_type = 'Lock' and query like 'alter index%'"))
        .rowCount === 1,
  )
  const began = performance.now()
  await insert(writer)
  expect(performance.now() - began).toBeLessThan(5_000)
  expect(await hasSearchIndex(client, 'subject')).toBe(false)
  await reader.query('commit')
  expect((await building).code).toBe(0)
  await Promise.all([reader.end(), writer.end()])
})

test('a build that was interrupted is completed by the next run', async () => {
  await client.query('create index outbox_subject on only outrider.outbox (subject)')
  await client.query(
    "insert into outrider.outbox (stream, type, subject, data) select 'orders', 'placed', 'same', '{}' from generate_series(1, 2)",
  )
  const { rows } = await client.query('select tableoid::regclass::text as partition from outrider.outbox limit 1')
  const partition = String(rows[0].partition).replace('outrider.', '')
  // A concurrent build that fails leaves an invalid index.
  const build = `create unique index concurrently ${partition}_subject on outrider.${partition} (subject)`
  await expect(client.query(build)).rejects.toThrow('could not create unique index')
  expect((await index('subject')).code).toBe(0)
  expect(await hasSearchIndex(client, 'subject')).toBe(true)
})

const OWN: Partial<Config> = {}
const MAPPED: Partial<Config> = { outbox: { ...OWN_OUTBOX, table: 'public.outbox' } }

test.each([
  [
    { index: 'id' },
    OWN,
    '--index: expected subject, correlation, txid, or several with commas in between, found "id".',
  ],
  [{ index: 'subject', only: 'inbox' }, OWN, '--only inbox: expected no --index with it.'],
  [{ index: 'subject' }, MAPPED, "--index: expected Outrider's own table, found public.outbox."],
])('%j is refused where it makes no sense', async (flags, config, message) => {
  await expect(runCommand(setup, database.url, { flags, config })).rejects.toThrow(message)
})
