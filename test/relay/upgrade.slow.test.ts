import { expect, onTestFinished } from 'vitest'
import { readMigrations } from '../../src/postgres/setup/migration.js'
import { RelayProcess } from '../../testkit/relay-process.js'
import { freshRedis, until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { Release } from './release.js'
import { Traffic } from './traffic.js'

const known = await readMigrations()
const newest = known.at(-1)!
const number = (ahead: number) => String(newest.version + ahead).padStart(3, '0')
const FIRST = `${number(1)}-next`
const SECOND = `${number(2)}-later`

/** What may change from one version to the next: columns and tables are added, a function is replaced by one that does more. */
const NEXT = {
  [`${FIRST}.sql`]: `
    alter table outrider.outbox add column region text;
    alter table outrider.lineage add column note text;
    create table outrider.next (id uuid primary key);
    grant select, insert on outrider.next to outrider_relay, outrider_consumer;
    create or replace function outrider.accept(consumer_group text, source text, id text) returns boolean
    language plpgsql volatile security invoker set lock_timeout = '5s'
    as $$
    begin
      insert into outrider.inbox (consumer_group, source, id) values (accept.consumer_group, accept.source, accept.id)
      on conflict do nothing;
      if found then
        insert into outrider.next (id) values (gen_random_uuid());
        return true;
      end if;
      return false;
    end
    $$;`,
  [`${SECOND}.sql`]: `-- serves: ${number(0)}
    alter table outrider.inbox add column note text default 'next';`,
}

async function release(...args: Parameters<typeof Release.make>): Promise<Release> {
  const made = await Release.make(...args)
  onTestFinished(() => made.remove())
  return made
}

async function relayOf(made: Release, env: RelayEnv): Promise<RelayProcess> {
  const relay = await RelayProcess.start(env.variables, made.main)
  onTestFinished(() => (relay.isRunning ? relay.kill() : undefined))
  return relay
}

/** Commands run as the owner of the database. */
const ownerOf = (env: RelayEnv) => ({ ...env.variables, OUTRIDER_POSTGRES_URL: env.database.url })

async function workerOf(made: Release, config: Parameters<Release['worker']>[0]) {
  const worker = made.worker(config)
  onTestFinished(() => worker.kill())
  await worker.started()
  return worker
}

/** As a Deployment with two replicas and maxSurge 1 does: the next one is ready before one goes. */
async function roll(relays: RelayProcess[], made: Release, env: RelayEnv, traffic: Traffic): Promise<RelayProcess[]> {
  const next: RelayProcess[] = []
  for (const old of relays) {
    const relay = await relayOf(made, env)
    await until(async () => (await relay.status())?.code === 200, { message: () => relay.tail() })
    next.push(relay)
    await traffic.more(100)
    expect(await old.stop(), old.tail()).toBe(0)
  }
  return next
}

/** Which version publishes. */
async function activeVersion(env: RelayEnv): Promise<string> {
  const { rows } = await env.postgres.query('select version from outrider.session order by started_at desc limit 1')
  return rows[0].version
}

test('from one version to the next and back under load: every event once, in order, and its effect once; writers never wait longer than setup may', async ({
  createEnv,
}) => {
  const server = await freshRedis()
  const env = await createEnv({ redis: server })
  const [n, next] = [await release('1.0.0'), await release('1.1.0', NEXT)]
  await env.postgres.query('create table effect (event uuid, release text)')
  let relays = [await relayOf(n, env), await relayOf(n, env)]
  const traffic = await Traffic.start(env, { every: 80 })
  const settings = { redis: server.url, postgres: env.database.url, streams: traffic.streams }
  let worker = await workerOf(n, { ...settings, release: 'n' })
  await traffic.more(200)

  // Setup first. Behind a long transaction it gives up, so that nobody queues behind it for longer; then it is run again.
  let longest = 0
  const settingUp = new AbortController()
  const inserting = (async () => {
    while (!settingUp.signal.aborted) {
      const began = performance.now()
      await env.insert('others')
      longest = Math.max(longest, performance.now() - began)
    }
  })()
  const reader = await env.database.connect()
  await reader.query('begin; lock table outrider.outbox in access share mode')
  expect(await next.run(['setup'], ownerOf(env))).toMatchObject({
    code: 1,
    text: expect.stringContaining(`Migration ${FIRST} waited 5s for a lock and gave up`),
  })
  await reader.end()
  expect(await next.run(['setup'], ownerOf(env))).toMatchObject({
    code: 0,
    text: expect.stringContaining(`created  schema outrider (${FIRST}, ${SECOND})`),
  })
  settingUp.abort()
  await inserting
  expect(longest).toBeGreaterThan(4_000)
  expect(longest).toBeLessThan(9_000)

  // The old relays run on the new schema, as they did.
  await traffic.more(300)
  for (const relay of relays) {
    expect(relay.logs.filter(({ level }) => level === 'error' || level === 'warn')).toEqual([])
    expect((await relay.status())?.code).toBe(200)
  }
  expect((await env.postgres.query('select from outrider.session')).rowCount).toBe(1)
  // So does the old worker, also when it starts anew, and beside a new one.
  const oldWorker = worker
  worker = await workerOf(next, { ...settings, release: 'next' })
  await traffic.more(100)
  expect(await oldWorker.stop()).toBe(0)

  relays = await roll(relays, next, env, traffic)
  await traffic.more(200)
  await until(async () => (await activeVersion(env)) === '1.1.0', {
    message: 'version 1.1.0 to publish',
  })

  // And back: the schema stays.
  const rows = async () => (await env.postgres.query('select * from outrider.migration order by version')).rows
  const before = await rows()
  expect(await n.run(['setup'], ownerOf(env))).toMatchObject({
    code: 0,
    text: expect.stringContaining(`it is newer (${FIRST}, ${SECOND}) and serves this version, so it stays as it is`),
  })
  expect(await rows()).toEqual(before)
  const check = await n.run(['check', '--json'], env.variables)
  expect(JSON.parse(check.text).findings).toContainEqual(
    expect.objectContaining({ id: 'schema-newer', level: 'info', is: expect.stringContaining(SECOND) }),
  )
  expect(JSON.parse(check.text).findings.filter(({ level }: { level: string }) => level === 'blocker')).toEqual([])
  relays = await roll(relays, n, env, traffic)
  const newWorker = worker
  worker = await workerOf(n, { ...settings, release: 'n again' })
  await traffic.more(200)
  expect(await newWorker.stop()).toBe(0)
  await traffic.more(200)
  await until(async () => (await activeVersion(env)) === '1.0.0', {
    message: 'version 1.0.0 to publish',
  })

  const truth = await traffic.finish()
  const effects = () =>
    env.postgres.query('select count(*)::int as done, count(distinct event)::int as events from effect')
  await until(async () => (await effects()).rows[0].events >= truth.length, {
    message: 'every effect',
  })
  expect(await worker.stop()).toBe(0)
  expect((await effects()).rows[0]).toEqual({ done: truth.length, events: truth.length })
  for (const stream of traffic.streams) expect((await env.redis.xpending(stream, 'billing'))[0]).toBe(0)
  const { rows: releases } = await env.postgres.query('select release from effect group by 1 order by 1')
  expect(releases).toEqual([{ release: 'n' }, { release: 'n again' }, { release: 'next' }])
  expect((await env.postgres.query('select from outrider.incident')).rowCount).toBe(0)
})

test('the migrations since the last release, applied under load next to its relays: no error, no incident, every event once', async ({
  createEnv,
  skip,
}) => {
  const unreleased = known.filter(({ version }) => version > newest.serves)
  const released = await Release.before(unreleased.map(({ name }) => name)).catch((error: Error) => error)
  if (released instanceof Error) return skip(`the tree of the last release cannot be built: ${released.message}`)
  onTestFinished(() => released.remove())
  const env = await createEnv({
    setup: async (variables) => expect(await released.run(['setup'], variables)).toMatchObject({ code: 0 }),
  })
  const active = await relayOf(released, env)
  await active.streaming()
  const relays = [active, await relayOf(released, env)]
  const traffic = await Traffic.start(env, { every: 80 })
  await traffic.more(100)

  const next = await release('1.1.0')
  expect(await next.run(['setup'], ownerOf(env))).toMatchObject({
    code: 0,
    text: expect.stringContaining(`created  schema outrider (${unreleased.map(({ name }) => name).join(', ')})`),
  })
  await traffic.more(200)
  for (const relay of relays) {
    expect(relay.logs.filter(({ level }) => level === 'error' || level === 'warn')).toEqual([])
    expect((await relay.status())?.code).toBe(200)
  }
  expect((await env.postgres.query('select from outrider.session')).rowCount).toBe(1)

  await roll(relays, next, env, traffic)
  await traffic.more(100)
  await until(async () => (await activeVersion(env)) === '1.1.0', {
    message: 'version 1.1.0 to publish',
  })
  await traffic.finish()
  expect((await env.postgres.query('select from outrider.incident')).rowCount).toBe(0)
  const { rows } = await env.postgres.query(
    "select outbox_oids = array['outrider.outbox'::regclass::oid] as known from outrider.lineage",
  )
  expect(rows).toEqual([{ known: true }])
})

test('a relay one migration behind the schema runs; two behind, it is refused in the same words as setup and check, and publishes nothing', async ({
  env,
}) => {
  const behind = await release('0.9.0', { [`${newest.name}.sql`]: undefined })
  const relay = await relayOf(behind, env)
  await relay.streaming()

  // Under its feet the schema goes on, and what is committed from then on is for others.
  const next = await release('1.1.0', NEXT)
  expect((await next.run(['setup'], ownerOf(env))).code).toBe(0)
  await relay.is({ role: 'halted', reason: 'schema_foreign' })
  const id = await env.insert('orders')
  const late = await relayOf(behind, env)
  await late.is({ role: 'halted', reason: 'schema_foreign' })

  const found = `found migration ${FIRST}, which serves only versions that know ${newest.name}.`
  const advice = `use that one, or any that knows ${newest.name}.`
  for (const each of [relay, late]) {
    const status = await each.status()
    expect(status).toMatchObject({ code: 503, message: expect.stringContaining(found) })
    expect(status?.message).toContain(advice)
  }
  const setup = await behind.run(['setup'], ownerOf(env))
  expect(setup).toMatchObject({ code: 1, text: expect.stringContaining(found) })
  expect(setup.text).toContain(advice)
  const check = await behind.run(['check', '--json'], env.variables)
  expect(check.code).toBe(4)
  expect(JSON.parse(check.text).findings).toContainEqual(
    expect.objectContaining({
      id: 'schema-foreign',
      level: 'blocker',
      is: `migration ${FIRST}, which serves only versions that know ${newest.name}`,
    }),
  )
  expect(await env.ids('orders')).toEqual([])

  // It holds no lock: a version that knows the schema does what is left.
  const right = await relayOf(next, env)
  await right.streaming()
  await until(async () => (await env.ids('orders')).includes(id))
  expect(await env.ids('orders')).toEqual([id])
})

test('a relay whose setup has not run yet is no standby: it waits, leaves the lock to older ones, and continues by itself', async ({
  env,
}) => {
  const old = await env.streamingRelay()
  const next = await release('1.1.0', NEXT)
  const early = await relayOf(next, env)
  const waiting = { role: 'starting', state: 'waiting', reason: 'setup_outdated' }
  await early.is(waiting)
  expect(await early.status()).toMatchObject({
    code: 503,
    message:
      'Expected a database that `outrider setup` of this version has been through, ' +
      `found that it lacks ${FIRST}, ${SECOND}. Run \`outrider setup\`, or let it end: the relay waits, and continues by itself.`,
  })
  expect(await old.status()).toMatchObject({ code: 200, role: 'active', state: 'streaming' })

  // The lock is free, and it still waits; an older one may have it.
  await old.stop()
  const id = await env.insert('orders')
  const another = await env.streamingRelay()
  await until(async () => (await env.ids('orders')).includes(id))
  await early.is(waiting)

  expect((await next.run(['setup'], ownerOf(env))).code).toBe(0)
  await early.is({ role: 'standby' })
  await another.stop()
  await early.streaming()
  expect(early.logs.filter(({ level }) => level === 'error')).toEqual([])
})

test('a standby looks again when it has the lock: setup may have gone on meanwhile', async ({ env }) => {
  const active = await env.streamingRelay()
  const behind = await release('0.9.0', { [`${newest.name}.sql`]: undefined })
  const standby = await relayOf(behind, env)
  await standby.is({ role: 'standby' })
  const next = await release('1.1.0', NEXT)
  expect((await next.run(['setup'], ownerOf(env))).code).toBe(0)
  await active.stop()
  await standby.is({ role: 'halted', reason: 'schema_foreign' })
  expect((await env.postgres.query('select from outrider.session')).rowCount).toBe(1)
})

test('a relay that is halted before it may look at the slot tells no figures of an earlier look', async ({ env }) => {
  const relay = await env.streamingRelay()
  const names = ['outrider_slot_retained_wal_bytes', 'outrider_slot_lag_bytes', 'outrider_open_incidents']
  const figures = () => Promise.all(names.map((name) => relay.metric(name)))
  await until(async () => (await figures()).every((figure) => figure !== undefined))
  await env.postgres.query(
    "insert into outrider.migration (version, name, checksum, serves) values (999, '999-later', '', 999)",
  )
  await relay.is({ role: 'halted', reason: 'schema_foreign' })
  await until(async () => (await figures()).every((figure) => figure === undefined), {
    message: 'what the slot was like to be forgotten',
  })
  await env.postgres.query('delete from outrider.migration where version = 999')
  await relay.streaming()
  await until(async () => (await figures()).every((figure) => figure !== undefined))
})
