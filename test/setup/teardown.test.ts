import type pg from 'pg'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { setup } from '../../src/cli/setup.js'
import { teardown } from '../../src/cli/teardown.js'
import { createDatabase, type Database } from '../../testkit/services/index.js'
import { type CommandRun, runCommand } from '../support/command.js'

let database: Database
let client: pg.Client
let slot: string

beforeEach(async () => {
  database = await createDatabase()
  client = await database.connect()
  slot = `outrider_${database.name}`
})

afterEach(async () => {
  await client.end()
  await database.drop()
})

const run = (options?: CommandRun) => runCommand(teardown, database.url, options)

const left = async () => {
  const { rows } = await client.query(
    `select exists (select from pg_replication_slots where slot_name = $1) as slot,
       exists (select from pg_publication) as publication, to_regnamespace('outrider') is not null as schema`,
    [slot],
  )
  return rows[0]
}

test('drops slot and publication, retires the lineage, and keeps the data', async () => {
  await runCommand(setup, database.url)
  await client.query("select outrider.publish('orders', 'x')")
  const { code, text } = await run({ answer: true })
  expect(code).toBe(0)
  expect(text).toMatch(/^Will drop:\n {2}slot outrider_test_\S+\n {2}publication outrider\nDropped\./)
  expect(await left()).toEqual({ slot: false, publication: false, schema: true })
  expect((await client.query('select retired_at is not null as retired from outrider.lineage')).rows).toEqual([
    { retired: true },
  ])
  expect((await client.query('select type from outrider.outbox')).rows).toEqual([{ type: 'x' }])
  expect((await runCommand(setup, database.url)).code).toBe(0)
})

test('changes nothing when the answer is no', async () => {
  await runCommand(setup, database.url)
  expect((await run({ answer: false })).code).toBe(1)
  expect(await left()).toEqual({ slot: true, publication: true, schema: true })
})

test('continues where it was interrupted', async () => {
  await runCommand(setup, database.url)
  await client.query('select pg_drop_replication_slot($1)', [slot])
  expect((await run({ answer: true })).code).toBe(0)
  expect(await left()).toEqual({ slot: false, publication: false, schema: true })
})

test('has nothing to do where nothing was set up, and leaves the slots of others', async () => {
  await client.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [slot])
  expect(await run()).toEqual({ code: 0, text: `Nothing to drop: this database has no lineage for slot ${slot}.` })
  expect(await run({ flags: { data: true } })).toMatchObject({ code: 0 })
  expect(await left()).toMatchObject({ slot: true })
})

test('--data says how much there is, then drops it all', async () => {
  await runCommand(setup, database.url)
  await client.query("select outrider.publish('orders', 'x'), outrider.accept('g', 's', 'i')")
  const { text } = await run({ answer: true, flags: { data: true } })
  expect(text).toContain('schema outrider with 1 events in the outbox and 1 rows in the inbox')
  expect(await left()).toEqual({ slot: false, publication: false, schema: false })
})

test("--data in a workers' database drops the inbox", async () => {
  await runCommand(setup, database.url, { flags: { only: 'inbox' } })
  expect((await run({ answer: true, flags: { data: true } })).code).toBe(0)
  expect(await left()).toEqual({ slot: false, publication: false, schema: false })
})

test('--data waits for every lineage to be torn down, and a shared publication stays until the last', async () => {
  await runCommand(setup, database.url)
  const other = { slot: `${slot}_b` }
  await runCommand(setup, database.url, { config: other, flags: { 'accept-findings': true } })
  await expect(run({ answer: true, flags: { data: true } })).rejects.toThrow(`found ${slot}_b (slots)`)
  await run({ answer: true })
  expect(await left()).toEqual({ slot: false, publication: true, schema: true })
  await run({ answer: true, flags: { data: true }, config: other })
  expect(await left()).toEqual({ slot: false, publication: false, schema: false })
})

test('prints JSON when asked', async () => {
  await runCommand(setup, database.url)
  const { text } = await run({ answer: true, json: true })
  expect(JSON.parse(text)).toEqual({ dropped: [`slot ${slot}`, 'publication outrider'] })
})
