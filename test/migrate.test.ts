import type pg from 'pg'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Migration, migrate, readMigrations } from '../src/postgres/migrate.js'
import { createDatabase, type Database } from './services/index.js'

let database: Database
let client: pg.Client

beforeEach(async () => {
  database = await createDatabase()
  client = await database.connect()
})

afterEach(async () => {
  await client.end()
  await database.drop()
})

const ALL = ['001-outbox', '002-inbox', '003-relay', '004-inbox']

const schema = async () => (await client.query("select to_regnamespace('outrider') is not null as there")).rows[0].there

const migration = (version: number, sql: string): Migration => ({
  version,
  name: `${String(version).padStart(3, '0')}-test`,
  sql,
  checksum: sql,
})

test('applies each migration once, in order', async () => {
  expect(await migrate(client)).toEqual({ applied: ALL })
  expect(await migrate(client)).toEqual({ applied: [] })
  const { rows } = await client.query('select version, name, length(checksum) as digits from outrider.migration')
  expect(rows).toEqual(ALL.map((name, index) => ({ version: index + 1, name, digits: 64 })))
})

test('two at once take turns', async () => {
  const other = await database.connect()
  const [first, second] = await Promise.all([migrate(client), migrate(other)])
  expect([...first.applied, ...second.applied].sort()).toEqual(ALL)
  await other.end()
})

test('two databases of one cluster at once share the roles', async () => {
  const another = await createDatabase()
  const other = await another.connect()
  expect(await Promise.all([migrate(client), migrate(other)])).toEqual([{ applied: ALL }, { applied: ALL }])
  await other.end()
  await another.drop()
})

test('the inbox alone needs nothing else, and the rest can follow', async () => {
  expect(await migrate(client, { only: 'inbox' })).toEqual({ applied: ['002-inbox', '004-inbox'] })
  expect((await client.query("select outrider.accept('g', 's', 'i') as work")).rows).toEqual([{ work: true }])
  expect((await client.query("select to_regclass('outrider.outbox') as outbox")).rows).toEqual([{ outbox: null }])
  expect(await migrate(client, { only: 'inbox' })).toEqual({ applied: [] })
  expect(await migrate(client)).toEqual({ applied: ['001-outbox', '003-relay'] })
})

test('an older database gets what is new, and keeps its rows', async () => {
  const known = await readMigrations()
  await migrate(client, { migrations: known.slice(0, 2) })
  await client.query("insert into outrider.outbox (stream, type) values ('orders', 'x')")
  const next = migration(5, 'alter table outrider.outbox add column later int')
  expect(await migrate(client, { migrations: [...known, next] })).toEqual({
    applied: ['003-relay', '004-inbox', '005-test'],
  })
  expect((await client.query('select later from outrider.outbox')).rows).toEqual([{ later: null }])
})

test('an altered migration is refused, and nothing is applied', async () => {
  const known = await readMigrations()
  await migrate(client, { migrations: known.slice(0, 2) })
  await client.query("update outrider.migration set checksum = 'deadbeefdeadbeef' where version = 1")
  await expect(migrate(client)).rejects.toThrow(
    /^Expected migration 001-outbox as .* another content \(deadbeefdead…\)/,
  )
  expect((await client.query('select version from outrider.migration order by 1')).rows).toHaveLength(2)
})

test('a newer database is refused', async () => {
  const known = await readMigrations()
  await migrate(client, { migrations: [...known, migration(5, 'select 1')] })
  await expect(migrate(client)).rejects.toThrow(
    'Expected a database that this version of Outrider knows (migrations up to 004-inbox), found migration 005-test.',
  )
})

test('a migration that fails leaves nothing of itself', async () => {
  const broken = migration(1, 'create table outrider.half (id int primary key); select 1 / 0')
  await expect(migrate(client, { migrations: [broken] })).rejects.toThrow('division by zero')
  expect(await schema()).toBe(false)
  expect(await migrate(client)).toEqual({ applied: ALL })
})

test('gives up on a lock instead of letting others queue behind it', async () => {
  await migrate(client)
  const known = await readMigrations()
  const reader = await database.connect()
  await reader.query('begin; lock table outrider.outbox in access share mode')
  const next = migration(5, "set local lock_timeout = '100ms'; alter table outrider.outbox add column later int")
  await expect(migrate(client, { migrations: [...known, next] })).rejects.toThrow(
    /^Migration 005-test waited .* nothing was changed/,
  )
  await reader.end()
  expect(await migrate(client, { migrations: [...known, next] })).toEqual({ applied: ['005-test'] })
})

test('works where the server is read only by default', async () => {
  await client.query('set default_transaction_read_only = on')
  expect(await migrate(client)).toEqual({ applied: ALL })
})
