import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { type Migration, readMigrations } from '../../src/postgres/setup/migration.js'
import { createDatabase, type Database, until } from '../../testkit/services/index.js'
import { LOCK_WAITS } from '../support/lock-waits.js'

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

const KNOWN = await readMigrations()
const ALL = KNOWN.map(({ name }) => name)
const NEWEST = KNOWN.at(-1)!.version
/** A migration that a newer version brings: its number, and its name. */
const ahead = (by: number) => NEWEST + by
const named = (by: number) => `${String(ahead(by)).padStart(3, '0')}-test`

const DONE = { applied: ALL, newer: [] }
const NOTHING = { applied: [], newer: [] }

const schema = async () => (await client.query("select to_regnamespace('outrider') is not null as there")).rows[0].there

const rows = async () => (await client.query('select * from outrider.migration order by version')).rows

const migration = (version: number, sql: string, serves = version - 1): Migration => ({
  version,
  name: `${String(version).padStart(3, '0')}-test`,
  sql,
  checksum: sql,
  serves,
})

test('applies each migration once, in order', async () => {
  expect(await migrate(client)).toEqual(DONE)
  expect(await migrate(client)).toEqual(NOTHING)
  const { rows } = await client.query('select version, name, length(checksum) as digits from outrider.migration')
  expect(rows).toEqual(KNOWN.map(({ version, name }) => ({ version, name, digits: 64 })))
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
  expect(await Promise.all([migrate(client), migrate(other)])).toEqual([DONE, DONE])
  await other.end()
  await another.drop()
})

test('the inbox alone needs nothing else, and the rest can follow', async () => {
  expect(await migrate(client, { only: 'inbox' })).toMatchObject({ applied: ['002-inbox', '004-inbox'] })
  expect((await client.query("select outrider.accept('g', 's', 'i') as work")).rows).toEqual([{ work: true }])
  expect((await client.query("select to_regclass('outrider.outbox') as outbox")).rows).toEqual([{ outbox: null }])
  expect(await migrate(client, { only: 'inbox' })).toEqual(NOTHING)
  expect(await migrate(client)).toMatchObject({ applied: ALL.filter((name) => !name.endsWith('-inbox')) })
})

test('an older database gets what is new, and keeps its rows', async () => {
  await migrate(client, { migrations: KNOWN.slice(0, 2) })
  await client.query("insert into outrider.outbox (stream, type) values ('orders', 'x')")
  const next = migration(ahead(1), 'alter table outrider.outbox add column later int')
  expect(await migrate(client, { migrations: [...KNOWN, next] })).toMatchObject({
    applied: [...ALL.slice(2), named(1)],
  })
  expect((await client.query('select later from outrider.outbox')).rows).toEqual([{ later: null }])
})

test('an altered migration is refused, and nothing is applied', async () => {
  await migrate(client, { migrations: KNOWN.slice(0, 2) })
  await client.query("update outrider.migration set checksum = 'deadbeefdeadbeef' where version = 1")
  await expect(migrate(client)).rejects.toThrow(
    /^Expected migration 001-outbox as .* another content \(deadbeefdead…\)/,
  )
  expect((await client.query('select version from outrider.migration order by 1')).rows).toHaveLength(2)
})

describe('a database that a newer version has set up', () => {
  const after = async (...newer: Migration[]) => {
    await migrate(client, { migrations: [...KNOWN, ...newer] })
    return () => migrate(client)
  }

  test('is left alone where it is one migration ahead', async () => {
    const again = await after(migration(ahead(1), 'alter table outrider.outbox add column later int'))
    const before = await rows()
    expect(await again()).toEqual({ applied: [], newer: [named(1)] })
    expect(await rows()).toEqual(before)
    expect(await migrate(client, { only: 'inbox' })).toEqual({ applied: [], newer: [named(1)] })
  })

  test('is refused where it is two migrations ahead and nothing is said', async () => {
    const again = await after(migration(ahead(1), 'select 1'), migration(ahead(2), 'select 1'))
    await expect(again()).rejects.toThrow(
      `Expected a schema that this version of Outrider can work with (it knows migrations up to ${ALL.at(-1)}), ` +
        `found migration ${named(2)}, which serves only versions that know ${named(1)}. ` +
        `This database was set up by a newer version, and a schema is not taken back: use that one, or any that knows ${named(1)}.`,
    )
  })

  test('is left alone where each of its migrations says that it serves this version', async () => {
    const again = await after(migration(ahead(1), 'select 1'), migration(ahead(2), 'select 1', NEWEST))
    expect(await again()).toEqual({ applied: [], newer: [named(1), named(2)] })
  })

  test('is refused where one of them does not, though a later one would', async () => {
    const again = await after(
      migration(ahead(1), 'select 1'),
      migration(ahead(2), 'select 1', ahead(1)),
      migration(ahead(3), 'select 1', NEWEST),
    )
    await expect(again()).rejects.toThrow(
      `found migration ${named(2)}, which serves only versions that know ${named(1)}`,
    )
  })

  test('counts as one migration ahead where its rows say nothing', async () => {
    const again = await after(migration(ahead(1), 'select 1'))
    await client.query('update outrider.migration set serves = null')
    expect(await again()).toEqual({ applied: [], newer: [named(1)] })
    await client.query("insert into outrider.migration (version, name, checksum) values ($1, $2, 'x')", [
      ahead(2),
      named(2),
    ])
    await expect(again()).rejects.toThrow(`found migration ${named(2)}`)
  })

  test('is refused where a migration that both know differs, whatever it serves', async () => {
    const again = await after(migration(ahead(1), 'select 1'))
    await client.query("update outrider.migration set checksum = 'deadbeefdeadbeef' where version = 3")
    await expect(again()).rejects.toThrow('Expected migration 003-relay as this version of Outrider has it')
  })
})

test('a database from before migrations said whom they serve gets the column, and keeps what it has', async () => {
  await migrate(client)
  const before = await rows()
  await client.query('alter table outrider.migration drop column serves')
  expect(await migrate(client)).toEqual(NOTHING)
  expect(await rows()).toEqual(before.map((row) => ({ ...row, serves: null })))
  const next = migration(ahead(1), 'select 1', 3)
  await migrate(client, { migrations: [...KNOWN, next] })
  expect((await client.query('select serves from outrider.migration order by version desc limit 1')).rows).toEqual([
    { serves: 3 },
  ])
})

test("a relay that looks at the migrations does not wait while one runs, also where the table was an earlier version's", async () => {
  await migrate(client)
  await client.query('alter table outrider.migration drop column serves')
  const [setup, relay] = [await database.connect(), await database.connect()]
  await client.query('begin; lock table outrider.outbox in access share mode')
  const next = migration(ahead(1), 'alter table outrider.outbox add column later int')
  const migrating = migrate(setup, { migrations: [...KNOWN, next] })
  await until(async () => (await client.query(`select from ${LOCK_WAITS} where relation is not null`)).rowCount)
  await relay.query("set lock_timeout = '100ms'")
  expect((await relay.query('select serves from outrider.migration')).rows).toHaveLength(KNOWN.length)
  await client.query('rollback')
  expect(await migrating).toMatchObject({ applied: [named(1)] })
  await setup.end()
  await relay.end()
})

test('a migration that fails leaves nothing of itself', async () => {
  const broken = migration(1, 'create table outrider.half (id int primary key); select 1 / 0')
  await expect(migrate(client, { migrations: [broken] })).rejects.toThrow('division by zero')
  expect(await schema()).toBe(false)
  expect(await migrate(client)).toEqual(DONE)
})

test('gives up on a lock instead of letting others queue behind it', async () => {
  await migrate(client)
  const reader = await database.connect()
  await reader.query('begin; lock table outrider.outbox in access share mode')
  const next = migration(ahead(1), "set local lock_timeout = '100ms'; alter table outrider.outbox add column later int")
  await expect(migrate(client, { migrations: [...KNOWN, next] })).rejects.toThrow(
    new RegExp(`^Migration ${named(1)} waited .* nothing was changed`),
  )
  await reader.end()
  expect(await migrate(client, { migrations: [...KNOWN, next] })).toMatchObject({ applied: [named(1)] })
})

test('works where the server is read only by default', async () => {
  await client.query('set default_transaction_read_only = on')
  expect(await migrate(client)).toEqual(DONE)
})
