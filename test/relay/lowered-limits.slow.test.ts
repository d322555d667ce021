import { expect, onTestFinished } from 'vitest'
import { headKey } from '../../src/event/names.js'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

/** A team's table, which has no constraints that would refuse a row before the relay does. */
const OUTBOX = {
  table: 'public.events',
  create: 'create table events (id text primary key, stream text, type text, headers text, payload json)',
}
const mapping = (stream: string, more = '') => `
outbox:
  table: public.events
  stream: '${stream}'
  columns: { id: id, type: type, data: payload${more} }
`
const SMALL = { OUTRIDER_MAX_EVENT_BYTES: '10KiB' }

async function insert(
  env: RelayEnv,
  id: string,
  { stream = 'events', headers = '{}', bytes = 10 } = {},
): Promise<void> {
  await env.postgres.query(
    `insert into events select $1, $2, 'test.happened', $3, json_build_object('text', repeat('x', $4::int))`,
    [id, stream, headers, bytes],
  )
}

const arrived = (env: RelayEnv, stream: string, ids: string[]) =>
  until(async () => (await env.ids(stream)).length === ids.length, {
    message: `${ids} in ${stream}`,
  }).then(async () => expect(await env.ids(stream)).toEqual(ids))

const headOf = async (env: RelayEnv, stream: string) => {
  const { rows } = await env.postgres.query('select lineage::text from outrider.lineage')
  return headKey(stream, rows[0].lineage)
}

interface Unconfirmed {
  /** Saves the head of a stream as it is in Redis: the next session knows it, and the slot stays where it is. */
  saveHead(stream: string): Promise<void>
  /** The relay is killed: all that it has published comes again. */
  kill(): Promise<void>
}

/** A relay that publishes and confirms nothing, however long it takes: a head is saved before that, and its table is locked. */
async function unconfirmed(env: RelayEnv, variables: Record<string, string>): Promise<Unconfirmed> {
  const relay = await env.streamingRelay({ ...variables, OUTRIDER_DURABILITY: 'memory' })
  const locker = await env.database.connect()
  onTestFinished(() => locker.end())
  await locker.query('begin; lock table outrider.head in share mode')
  return {
    async saveHead(stream) {
      const { position, event, entry, session } = await env.redis.hgetall(await headOf(env, stream))
      await locker.query(
        `insert into outrider.head (lineage, session, stream_key, position, event_id, entry_id)
         select lineage, $1, $2, $3, $4, $5 from outrider.lineage`,
        [session, stream, position, event, entry],
      )
    },
    async kill() {
      await killWithStatements(env, relay)
      await locker.query('commit')
    },
  }
}

/** A statement of the relay that waits for a lock would be carried out once the lock is free. */
async function killWithStatements(env: RelayEnv, relay: RelayProcess): Promise<void> {
  await relay.kill()
  await env.database.query(
    `select pg_terminate_backend(pid, 5000) from pg_stat_activity
     where application_name like 'outrider %' and datname = current_database()`,
  )
}

test('events published and not confirmed, of which limits and mapping would now reject the newest: recognised, and no stream is halted', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv({ outbox: OUTBOX })
  const first = await unconfirmed(env, { OUTRIDER_CONFIG: await configFile(mapping('{stream}')) })
  const heads = {
    large: { bytes: 20_000 },
    'large-saved': { bytes: 20_000 },
    malformed: { headers: '[1]' },
    'malformed-saved': { headers: '[1]' },
  }
  for (const stream of Object.keys(heads)) await insert(env, `${stream}-1`, { stream })
  for (const stream of Object.keys(heads)) {
    await arrived(env, stream, [`${stream}-1`])
    if (stream.endsWith('-saved')) await first.saveHead(stream)
  }
  for (const [stream, row] of Object.entries(heads)) await insert(env, `${stream}-2`, { stream, ...row })
  for (const stream of Object.keys(heads)) await arrived(env, stream, [`${stream}-1`, `${stream}-2`])
  await first.kill()

  const next = await env.relay({
    OUTRIDER_CONFIG: await configFile(mapping('{stream}', ', headers: headers')),
    ...SMALL,
  })
  for (const [stream, row] of Object.entries(heads)) {
    await insert(env, `${stream}-3`, { stream, ...row })
    await insert(env, `${stream}-4`, { stream })
  }
  for (const stream of Object.keys(heads)) {
    const published = [1, 2, 4].map((n) => `${stream}-${n}`)
    await arrived(env, stream, published)
  }
  const incidents = await listIncidents(env.postgres)
  expect(incidents.map(({ eventId }) => eventId).sort()).toEqual(Object.keys(heads).map((stream) => `${stream}-3`))
  expect(await next.metric('outrider_sessions_total')).toBe(1)
})

test('events published and not confirmed, of which a lowered proto-max-bulk-len would now reject the newest: recognised, and no stream is halted', async ({
  createEnv,
  configFile,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const env = await createEnv({ outbox: OUTBOX, redis })
  const variables = {
    OUTRIDER_CONFIG: await configFile(mapping('{stream}')),
    OUTRIDER_DURABILITY: 'memory',
    OUTRIDER_MAX_EVENT_BYTES: '4MiB',
    OUTRIDER_LIMITS_BATCH_BYTES: '16MiB',
    OUTRIDER_LIMITS_INFLIGHT_BYTES: '32MiB',
  }
  const first = await unconfirmed(env, variables)
  const streams = ['unsaved', 'saved']
  for (const stream of streams) await insert(env, `${stream}-1`, { stream })
  for (const stream of streams) await arrived(env, stream, [`${stream}-1`])
  await first.saveHead('saved')
  for (const stream of streams) await insert(env, `${stream}-2`, { stream, bytes: 2_000_000 })
  for (const stream of streams) await arrived(env, stream, [`${stream}-1`, `${stream}-2`])
  await first.kill()

  await redis.config('proto-max-bulk-len', '1mb')
  const next = await env.relay(variables)
  for (const stream of streams) {
    await insert(env, `${stream}-3`, { stream, bytes: 2_000_000 })
    await insert(env, `${stream}-4`, { stream })
  }
  for (const stream of streams) {
    await arrived(
      env,
      stream,
      [1, 2, 4].map((n) => `${stream}-${n}`),
    )
  }
  const incidents = await listIncidents(env.postgres)
  expect(incidents.map(({ reason, eventId }) => [reason, eventId]).sort()).toEqual([
    ['too_large_for_redis', 'saved-3'],
    ['too_large_for_redis', 'unsaved-3'],
  ])
  expect(await next.status()).toMatchObject({ role: 'active', state: 'streaming' })
})

test('the mapping sends the row at the head of a stream elsewhere: the stream continues, and is not taken for that of a copy', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv({ outbox: OUTBOX })
  const first = await unconfirmed(env, { OUTRIDER_CONFIG: await configFile(mapping('events')) })
  await insert(env, 'e1')
  await arrived(env, 'events', ['e1'])
  await first.saveHead('events')
  await insert(env, 'e2', { stream: 'no good name' })
  await arrived(env, 'events', ['e1', 'e2'])
  await first.kill()

  await env.relay({ OUTRIDER_CONFIG: await configFile(mapping('{stream}')) })
  await insert(env, 'e3')
  await arrived(env, 'events', ['e1', 'e2', 'e3'])
  expect(await listIncidents(env.postgres)).toMatchObject([{ kind: 'rejected', reason: 'bad_stream', eventId: 'e2' }])
})

test('a head that nothing has saved, of a stream that is used only later: recognised as its own', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv({ outbox: OUTBOX })
  const first = await unconfirmed(env, { OUTRIDER_CONFIG: await configFile(mapping('{stream}')) })
  await insert(env, 'e1', { stream: 'a' })
  await arrived(env, 'a', ['e1'])
  await first.kill()

  const next = await env.relay({ OUTRIDER_CONFIG: await configFile(mapping('{headers}')) })
  await insert(env, 'e2', { headers: 'b' })
  // The row at the head of `a` has no stream now.
  await arrived(env, 'b', ['e2'])
  await insert(env, 'e3', { headers: 'a' })
  await arrived(env, 'a', ['e1', 'e3'])
  expect(await next.metric('outrider_sessions_total')).toBe(1)
  expect(await listIncidents(env.postgres)).toMatchObject([{ reason: 'bad_stream', eventId: 'e1' }])
})

test('a row at the head that is read before Redis answers: recognised as its own', async ({
  createEnv,
  configFile,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis({ settings: { appendonly: 'yes' } })
  const env = await createEnv({ outbox: OUTBOX, redis })
  const first = await unconfirmed(env, { OUTRIDER_CONFIG: await configFile(mapping('events')) })
  await insert(env, 'e1')
  await arrived(env, 'events', ['e1'])
  await first.saveHead('events')
  await insert(env, 'e2', { stream: 'no good name' })
  await arrived(env, 'events', ['e1', 'e2'])
  await first.kill()
  await redis.stop()

  const next = await env.relay({ OUTRIDER_CONFIG: await configFile(mapping('{stream}')) })
  await insert(env, 'e3')
  await until(async () => (await next.metric('outrider_events_received_total')) === 3)
  await redis.start()
  await arrived(env, 'events', ['e1', 'e2', 'e3'])
  expect(await next.status()).toMatchObject({ role: 'active' })
})

test('killed before the incident of a rejected row is kept: nothing overtook the row, and with a higher limit it is published', async ({
  createEnv,
  configFile,
  onTestFinished,
}) => {
  const env = await createEnv({ outbox: OUTBOX })
  const file = { OUTRIDER_CONFIG: await configFile(mapping('{stream}')) }
  const first = await env.relay({ ...file, ...SMALL })
  await insert(env, 'e1')
  await arrived(env, 'events', ['e1'])
  const locker = await env.database.connect()
  onTestFinished(() => locker.end())
  await locker.query('begin; lock table outrider.incident')
  await insert(env, 'e2', { bytes: 20_000 })
  await insert(env, 'e3')
  await insert(env, 'e4', { stream: 'others' })
  await arrived(env, 'others', ['e4'])
  await killWithStatements(env, first)
  expect(await env.ids('events')).toEqual(['e1'])
  await locker.query('rollback')

  await env.relay(file)
  await arrived(env, 'events', ['e1', 'e2', 'e3'])
  expect(await listIncidents(env.postgres)).toEqual([])
})
