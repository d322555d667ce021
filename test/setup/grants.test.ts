import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { checkPostgres } from '../../src/check/postgres.js'
import { setup } from '../../src/cli/setup.js'
import { grantRoles } from '../../src/postgres/setup/grants.js'
import { type Database, needsProcess, type Postgres, startPostgres } from '../../testkit/services/index.js'
import { type CommandRun, configFor, runCommand } from '../support/command.js'

/** Roles belong to the cluster, and some tests want them not to be there: this file's own. */
let postgres: Postgres
let version: number
let database: Database

beforeEach((context) => needsProcess(context, ['postgres']))

beforeAll(async () => {
  if (process.env.OUTRIDER_TEST_POSTGRES_URL) return
  postgres = await startPostgres({ syncs: false, settings: { max_slot_wal_keep_size: '1GB' } })
  const [{ num } = { num: 0 }] = await postgres.query<{ num: number }>(
    "select current_setting('server_version_num')::integer as num",
  )
  version = num
})

afterAll(() => postgres?.remove())

beforeEach(async () => {
  database = await postgres.createDatabase()
  await postgres.query('create role shop_relay login replication')
  await postgres.query('create role "Shop-App" login')
  await postgres.query('create role worker login')
})

afterEach(async () => {
  await database?.drop()
  const made = await postgres.query<{ name: string }>(
    "select quote_ident(rolname) as name from pg_roles where rolname !~ '^pg_' and rolname <> 'postgres'",
  )
  await postgres.query(`drop role ${made.map(({ name }) => name).join(', ')}`)
})

const run = (flags: CommandRun['flags'], more: CommandRun & { url?: string } = {}) =>
  runCommand(setup, more.url ?? database.url, { ...more, flags: flags ?? {} })
const EVERY = { 'grant-relay': 'shop_relay', 'grant-writer': 'Shop-App, shop_relay', 'grant-consumer': 'worker' }
const has = async (role: string, member: string): Promise<boolean> => {
  const [{ has } = { has: false }] = await postgres.query<{ has: boolean }>(
    "select pg_has_role($1, $2, 'usage') as has",
    [member, role],
  )
  return has
}
const untouched = async () =>
  expect(await database.query("select to_regnamespace('outrider') as schema")).toEqual([{ schema: null }])

test('roles are granted to those who are named, and each can do its job at once', async () => {
  const { code, text } = await run(EVERY)
  expect(code).toBe(0)
  expect(text).toContain(
    '\ngranted  outrider_relay to shop_relay\ngranted  outrider_writer to Shop-App\n' +
      'granted  outrider_writer to shop_relay\ngranted  outrider_consumer to worker\n',
  )
  expect(text).toMatch(/\nNext: `outrider check` looks at the rest/)
  const { findings } = await checkPostgres(configFor(database.urlAs({ user: 'shop_relay' })), 10_000)
  expect(findings.filter(({ level }) => level !== 'info')).toEqual([])
  const app = await database.connect({ user: 'Shop-App' })
  await app.query("select outrider.publish('orders', 'order.placed')")
  await app.end()
  const worker = await database.connect({ user: 'worker' })
  await worker.query("select outrider.accept('billing', '/shop', '1')")
  await worker.end()
})

test('what is granted already stays as it is, and is reported as present', async () => {
  await run(EVERY)
  const memberships = () => postgres.query('select roleid, member, grantor, xmin from pg_auth_members order by 1, 2, 3')
  const before = await memberships()
  const { code, text } = await run(EVERY, { json: true })
  expect(code).toBe(0)
  expect(JSON.parse(text).grants).toEqual([
    { role: 'outrider_relay', to: 'shop_relay', state: 'present' },
    { role: 'outrider_writer', to: 'Shop-App', state: 'present' },
    { role: 'outrider_writer', to: 'shop_relay', state: 'present' },
    { role: 'outrider_consumer', to: 'worker', state: 'present' },
  ])
  expect(await memberships()).toEqual(before)
})

test('roles are granted before the slot, which may wait long for open transactions', async () => {
  const writer = await database.connect()
  await writer.query('begin; select pg_current_xact_id()')
  await expect(run({ ...EVERY, 'lock-timeout': '200ms' })).rejects.toThrow('within 200 ms')
  expect(await has('outrider_relay', 'shop_relay')).toBe(true)
  expect(await has('outrider_writer', 'Shop-App')).toBe(true)
  await writer.end()
  expect((await run(EVERY)).text).toContain('present  outrider_relay to shop_relay')
})

test('only the inbox: workers, and no one else', async () => {
  const { text } = await run({ only: 'inbox', 'grant-consumer': 'worker' })
  expect(text).toMatch(/^created {2}schema outrider \(.*\)\ngranted {2}outrider_consumer to worker$/)
  const again = await run({ only: 'inbox', 'grant-consumer': 'worker' }, { json: true })
  expect(JSON.parse(again.text).grants).toEqual([{ role: 'outrider_consumer', to: 'worker', state: 'present' }])
  for (const flag of ['grant-relay', 'grant-writer']) {
    await expect(run({ only: 'inbox', [flag]: 'worker' })).rejects.toMatchObject({ exitCode: 2 })
  }
})

test('roles that do not exist are named together, each with its statement, and nothing is changed', async () => {
  await expect(run({ ...EVERY, 'grant-relay': 'nobody,shop_relay', 'grant-writer': 'SHOP-APP' })).rejects.toMatchObject(
    {
      exitCode: 1,
      message:
        '--grant-relay: expected the role nobody, found none of this name; ' +
        '--grant-writer: expected the role SHOP-APP, found none of this name (upper and lower case count). Nothing was changed. ' +
        'As an administrator, with a password of your own: `create role "nobody" login replication; create role "SHOP-APP" login`. ' +
        'Then run the command again.',
    },
  )
  await untouched()
  expect(await postgres.query("select from pg_roles where rolname like 'outrider%'")).toEqual([])
})

test.each(['', 'a,', ' , b'])('names that are left out are wrong usage: "%s"', async (roles) => {
  await expect(run({ 'grant-relay': roles })).rejects.toMatchObject({ name: 'OutriderError', exitCode: 2 })
  await untouched()
})

test('a superuser, and the role that runs setup, are fine', async () => {
  await postgres.query('create role boss login superuser')
  await run({ 'grant-relay': 'boss,postgres' })
  expect([await has('outrider_relay', 'boss'), await has('outrider_relay', 'postgres')]).toEqual([true, true])
})

test('a membership that is not inherited is made one that is, where the server lets a grant say so', async () => {
  await run({})
  await postgres.query('alter role worker noinherit; grant outrider_consumer to worker')
  const granting = run({ 'grant-consumer': 'worker' })
  if (version < 160_000) {
    await expect(granting).rejects.toThrow(
      'found NOINHERIT. Nothing was changed. As an administrator: `alter role "worker" inherit`.',
    )
    return
  }
  expect((await granting).text).toContain('granted  outrider_consumer to worker')
  expect(await has('outrider_consumer', 'worker')).toBe(true)
})

describe('an owner without superuser', () => {
  let url: string

  beforeEach(async () => {
    await postgres.query('create role owner login replication createrole')
    await postgres.query(`alter database ${database.name} owner to owner`)
    url = postgres.url(database.name, { user: 'owner' })
  })

  test('grants what it made itself, also to itself', async () => {
    const { text } = await run({ ...EVERY, 'grant-relay': 'shop_relay,owner' }, { url })
    expect(text).toContain('granted  outrider_relay to owner')
    expect(await has('outrider_relay', 'owner')).toBe(true)
    expect((await run({ ...EVERY, 'grant-relay': 'shop_relay,owner' }, { url })).text).not.toContain('granted')
  })

  test('who may not grant is told the statements beforehand, and with them done continues', async () => {
    await postgres.query('create role outrider_writer; create role outrider_relay; create role outrider_consumer')
    await postgres.query('alter role owner nocreaterole')
    const failure = await run(EVERY, { url }).catch((error) => error)
    expect(failure).toMatchObject({
      exitCode: 1,
      message: expect.stringMatching(
        /^Expected a role that may grant outrider_relay, outrider_writer, outrider_consumer, found that this one may not/,
      ),
    })
    await untouched()
    const [, statements] = /As an administrator: `([^`]+)`/.exec(failure.message)!
    for (const statement of statements!.split('; ')) await postgres.query(statement)
    expect((await run(EVERY, { url })).text).not.toContain('granted')
  })

  test('an admin option is enough', async () => {
    await postgres.query('create role outrider_writer; create role outrider_relay; create role outrider_consumer')
    await postgres.query('alter role owner nocreaterole')
    await postgres.query('grant outrider_relay to owner with admin option')
    expect((await run({ 'grant-relay': 'shop_relay' }, { url })).text).toContain(
      'granted  outrider_relay to shop_relay',
    )
    expect(await has('outrider_relay', 'shop_relay')).toBe(true)
  })
})

test('setups of several databases grant and find the same at once', async () => {
  await run({})
  const clients = await Promise.all(Array.from({ length: 6 }, () => database.connect()))
  for (let round = 0; round < 20; round++) {
    const reports = await Promise.all(clients.map((client) => grantRoles(client, { outrider_relay: ['shop_relay'] })))
    expect(reports.flat().some(({ state }) => state === 'granted')).toBe(true)
    expect(await has('outrider_relay', 'shop_relay')).toBe(true)
    await postgres.query('revoke outrider_relay from shop_relay')
  }
  for (const client of clients) await client.end()
})
