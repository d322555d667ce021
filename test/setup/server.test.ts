import { readdir } from 'node:fs/promises'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { setup } from '../../src/cli/setup.js'
import { teardown } from '../../src/cli/teardown.js'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { dropRole, ROLES } from '../../src/postgres/setup/teardown.js'
import { needsProcess, type Postgres, startPostgres } from '../../testkit/services/index.js'
import { chosenVersion } from '../../testkit/services/postgres-binaries.js'
import { runCommand } from '../support/command.js'
import { TOO_LOW } from '../support/wal-level.js'

let postgres: Postgres

beforeEach((context) => needsProcess(context, ['postgres']))

beforeAll(async () => {
  if (process.env.OUTRIDER_TEST_POSTGRES_URL) return
  postgres = await startPostgres({ syncs: false })
})

afterAll(async () => {
  await postgres?.remove()
})

const LIST_ROLES = "select rolname from pg_roles where rolname like 'outrider\\_%' order by 1"

/** As managed services give it out: owner of its database, no superuser. */
async function ownedDatabase(name: string, attributes: string): Promise<string> {
  await postgres.query(`create role ${name} login ${attributes}`)
  await postgres.query(`create database ${name} owner ${name}`)
  return postgres.url(name, { user: name })
}

test('an owner without CREATEROLE is told what to ask for', async () => {
  const url = await ownedDatabase('plain', 'replication')
  await expect(runCommand(setup, url)).rejects.toThrow(
    /^Migration 001-outbox lacks a privilege: .*create role outrider_writer nologin/,
  )
  await postgres.query('create role outrider_writer; create role outrider_relay; create role outrider_consumer')
  expect((await runCommand(setup, url)).code).toBe(0)
  await runCommand(teardown, url, { answer: true, flags: { data: true } })
  await postgres.query('drop role outrider_writer, outrider_relay, outrider_consumer')
})

test('an owner with CREATEROLE sets up, uses and tears down everything', async () => {
  const url = await ownedDatabase('managed', 'replication createrole')
  expect((await runCommand(setup, url)).code).toBe(0)
  expect(await postgres.query(LIST_ROLES)).toHaveLength(3)
  const { code, text } = await runCommand(teardown, url, { answer: true, flags: { data: true } })
  expect({ code, last: text.split('\n').at(-1) }).toEqual({ code: 0, last: 'Dropped.' })
  expect(await postgres.query(LIST_ROLES)).toEqual([])
})

test('setups continue while another database drops the roles', async () => {
  const one = await postgres.createDatabase('racing')
  const client = await one.connect()
  const other = await postgres.connect()
  const migrations = await readdir(new URL('../../sql/', import.meta.url))
  let dropped = 0
  let ended = false
  const dropping = (async () => {
    while (!ended) {
      for (const role of ROLES) if (await dropRole(other, role)) dropped++
    }
  })()
  for (let round = 0; round < 10; round++) {
    await client.query('drop schema if exists outrider cascade')
    expect((await migrate(client)).applied).toHaveLength(migrations.length)
  }
  ended = true
  await dropping
  expect(dropped).toBeGreaterThan(0)
  await client.end()
  await other.end()
  await one.drop()
})

test('roles stay while someone has them or another database uses them', async () => {
  const one = await postgres.createDatabase('one')
  const two = await postgres.createDatabase('two')
  await runCommand(setup, one.url)
  await runCommand(setup, two.url, { flags: { only: 'inbox' } })
  await postgres.query('create role shop login in role outrider_writer')
  const { text } = await runCommand(teardown, one.url, { answer: true, flags: { data: true } })
  expect(text).toContain('kept: outrider_writer, outrider_consumer.')
})

test('a role without REPLICATION is told so, and setup continues later', async () => {
  const url = await ownedDatabase('unable', 'createrole')
  await expect(runCommand(setup, url)).rejects.toThrow('the role lacks REPLICATION')
  await postgres.query('alter role unable replication')
  expect((await runCommand(setup, url)).code).toBe(0)
})

test('a role that may not create a publication is told so', async () => {
  await ownedDatabase('closed', 'replication createrole')
  await postgres.query('create role visitor login replication')
  await expect(runCommand(setup, postgres.url('closed', { user: 'visitor' }))).rejects.toThrow(
    /lacks a privilege: permission denied for database closed/,
  )
})

test('every slot in use: says which setting', async () => {
  const database = await postgres.createDatabase('full')
  const { slots } = (
    await postgres.query<{ slots: number }>("select current_setting('max_replication_slots')::int as slots")
  )[0]!
  const used = (await postgres.query('select from pg_replication_slots')).length
  await postgres.query('select pg_create_physical_replication_slot($1 || n) from generate_series(1, $2::int) as n', [
    'full_',
    slots - used,
  ])
  await expect(runCommand(setup, database.url)).rejects.toThrow('Raise max_replication_slots')
  await postgres.query(
    "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_type = 'physical'",
  )
  expect((await runCommand(setup, database.url)).code).toBe(0)
})

test('wal_level too low: says the statement', async () => {
  await postgres.query('select pg_drop_replication_slot(slot_name) from pg_replication_slots')
  await postgres.stop()
  await postgres.start(TOO_LOW)
  const database = await postgres.createDatabase('replica')
  await expect(runCommand(setup, database.url)).rejects.toThrow(
    new RegExp(`found ${TOO_LOW.wal_level}\\. .*alter system set wal_level = 'logical'`),
  )
  expect((await runCommand(setup, database.url, { flags: { only: 'inbox' } })).code).toBe(0)
})

test('wal_level = replica is enough from PostgreSQL 19 on: the slot raises the level in force', async ({ skip }) => {
  if (chosenVersion() < 19) {
    const reason = 'needs OUTRIDER_TEST_POSTGRES=19'
    console.warn(`skipped: ${reason}`)
    return skip(reason)
  }
  await postgres.stop()
  await postgres.start({ wal_level: 'replica', max_wal_senders: '40' })
  const database = await postgres.createDatabase('raised')
  const effective = async () =>
    (await postgres.query<{ level: string }>("select current_setting('effective_wal_level') as level"))[0]?.level
  expect(await effective()).toBe('replica')
  expect((await runCommand(setup, database.url)).code).toBe(0)
  expect(await effective()).toBe('logical')
})
