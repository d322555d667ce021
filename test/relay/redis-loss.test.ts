import type { ChainableCommander } from 'ioredis'
import { describe, expect } from 'vitest'
import { closeIncident, type Incident, listIncidents } from '../../src/postgres/incidents.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, startPostgres, startRedis, until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { Traffic } from './traffic.js'

const STREAM = 'orders'

async function headOf(env: RelayEnv): Promise<string> {
  const { rows } = await env.postgres.query('select lineage from outrider.lineage')
  return `outrider:{${STREAM}}:head:${rows[0].lineage}`
}

/** Until Postgres has saved the heads of so many streams, the slot would heal a loss. Resolves with the last event's id. */
async function saved(env: RelayEnv, streams: number, last?: string): Promise<void> {
  await until(
    async () => {
      const { rows } = await env.postgres.query('select stream_key, event_id from outrider.head')
      const orders = rows.find(({ stream_key }) => stream_key === STREAM)
      return rows.length >= streams && (last === undefined || orders?.event_id === last)
    },
    { timeout: 20_000, message: 'saved heads' },
  )
}

/** The relay has found the loss, says so, and still does after it has looked again. Resolves with the incidents. */
async function halted(env: RelayEnv, relay: RelayProcess): Promise<Incident[]> {
  await relay.is({ role: 'halted', state: 'halted', reason: 'stream_behind' })
  expect(await relay.status()).toMatchObject({
    code: 503,
    message: expect.stringMatching(/Redis has lost events .* Nothing newer is published\. .*incidents show \d+/),
  })
  const looks = () => relay.metric('outrider_errors_total{target="outrider",code="stream_behind"}')
  const before = (await looks()) as number
  const lengths = await published(env)
  await env.insert(STREAM, { newer: true })
  await until(async () => ((await looks()) ?? 0) > before, { message: 'the relay to look again' })
  expect(await published(env)).toEqual(lengths)
  const incidents = await listIncidents(env.postgres)
  for (const incident of incidents) expect(incident).toMatchObject({ kind: 'gap', reason: 'stream_behind' })
  return incidents
}

/** How many entries every stream holds. */
async function published(env: RelayEnv): Promise<Record<string, number>> {
  const lengths: Record<string, number> = {}
  for (const stream of [STREAM, 'users']) lengths[stream] = await env.redis.xlen(stream)
  return lengths
}

/** Accepting what is lost: the relay goes on by itself, with what it has not confirmed and what comes. */
async function goesOn(env: RelayEnv, relay: RelayProcess, incidents: Incident[]): Promise<void> {
  for (const { id } of incidents) await closeIncident(env.postgres, id)
  await relay.streaming()
  const id = await env.insert(STREAM, { after: 'the gap' })
  await until(async () => (await env.ids(STREAM)).at(-1) === id, { message: 'events to flow again' })
  expect(await listIncidents(env.postgres)).toEqual([])
}

interface Loss {
  what: string
  streams: string[]
  /** The same for the relay as another one: once is enough. */
  again?: true
  lose(redis: ChainableCommander, head: string): ChainableCommander
}

const losses: Loss[] = [
  { what: 'FLUSHALL', streams: [STREAM, 'users'], lose: (redis) => redis.flushall() },
  { what: 'DEL of a stream', streams: [STREAM], lose: (redis) => redis.del(STREAM) },
  {
    what: 'DEL of a stream that a consumer makes anew',
    again: true,
    streams: [STREAM],
    lose: (redis) => redis.del(STREAM).xgroup('CREATE', STREAM, 'workers', '0', 'MKSTREAM'),
  },
  { what: 'DEL of a head', streams: [STREAM], lose: (redis, head) => redis.del(head) },
]

/** What the stream holds from then on, if nothing newer comes. */
async function inflict(env: RelayEnv, { lose }: Loss): Promise<number> {
  const replies = await lose(env.redis.multi(), await headOf(env))
    .xlen(STREAM)
    .exec()
  return replies?.at(-1)?.[1] as number
}

// Each waits most of the time: for the 5 s after which level memory confirms, and for the relay to look again.
describe.concurrent('a gap within seconds, and nothing newer is published', () => {
  test.for(losses)('after $what, where nothing flows', async (loss, { env }) => {
    const relay = await env.streamingRelay()
    await env.insert('users')
    for (let n = 0; n < 4; n++) await env.insert(STREAM, { n })
    const last = await env.insert(STREAM, { n: 4 })
    await saved(env, 2, last)
    const position = await env.redis.hget(await headOf(env), 'position')

    const left = await inflict(env, loss)
    const incidents = await halted(env, relay)
    expect(await env.redis.xlen(STREAM)).toBe(left)
    expect(incidents.map(({ stream }) => stream).sort()).toEqual(loss.streams)
    const incident = incidents.find(({ stream }) => stream === STREAM)
    expect(incident?.detail).toMatchObject({
      expected: { position, event: last },
      until: expect.any(String),
      events: 5,
    })
    await goesOn(env, relay, incidents)
  })

  test.for(losses.filter(({ again }) => !again))(
    'after $what, under load',
    { timeout: 90_000 },
    async (loss, { env }) => {
      const traffic = await Traffic.start(env, { streams: [STREAM, 'users'], writers: 1 })
      const relay = await env.streamingRelay()
      await saved(env, 2)
      await traffic.more(100)

      const left = await inflict(env, loss)
      await traffic.more(100)
      const incidents = await halted(env, relay)
      expect(await env.redis.xlen(STREAM)).toBe(left)
      expect(incidents.map(({ stream }) => stream).sort()).toEqual(loss.streams)
      await traffic.stop()
      await goesOn(env, relay, incidents)
    },
  )
})

test.concurrent('a gap after Redis came back with an older copy of its data', async ({ createEnv, skip }) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis({ settings: { appendonly: 'yes', appendfsync: 'always' } })
  const env = await createEnv({ redis })
  const relay = await env.streamingRelay()
  const kept = [await env.insert(STREAM), await env.insert(STREAM)]
  await until(async () => (await env.ids(STREAM)).length === kept.length)
  const copy = await redis.cloneData()
  for (let n = 0; n < 3; n++) await env.insert(STREAM)
  const last = await env.insert(STREAM)
  await saved(env, 1, last)

  await redis.restore(copy)
  const incidents = await halted(env, relay)
  expect(await env.ids(STREAM)).toEqual(kept)
  expect(incidents.map(({ detail }) => detail)).toEqual([
    expect.objectContaining({
      expected: expect.objectContaining({ event: last }),
      found: expect.objectContaining({ event: kept.at(-1) }),
      events: 4,
    }),
  ])
  await goesOn(env, relay, incidents)
})

test.concurrent('FLUSHALL before anything was confirmed loses nothing: the slot still has it', async ({ env }) => {
  const relay = await env.streamingRelay()
  const ids = [await env.insert(STREAM), await env.insert(STREAM), await env.insert(STREAM)]
  await until(async () => (await env.ids(STREAM)).length === ids.length)
  await env.redis.flushall()
  expect(await env.redis.exists(STREAM)).toBe(0)
  await until(async () => (await env.ids(STREAM)).length === ids.length, { message: 'the events to come again' })
  expect(await env.ids(STREAM)).toEqual(ids)
  expect(await relay.metric('outrider_sessions_total')).toBe(2)
  expect(await listIncidents(env.postgres)).toEqual([])
})

test('while the next session counts what Redis lost, its looks at the slot wait, and the gap is what it says', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  // Its own: the lock is an open transaction, which holds up every new slot of the server.
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const database = await server.createDatabase()
  const env = await createEnv({ database })
  const first = await env.streamingRelay()
  await saved(env, 1, await env.insert(STREAM))
  await first.stop()
  await env.redis.flushall()

  // The count gives up after 5 s, and leaves a transaction that takes nothing but its rollback.
  const locker = await database.connect()
  onTestFinished(() => locker.end())
  await locker.query('begin; lock table outrider.outbox in access exclusive mode')
  const relay = await env.relay()
  await relay.is({ role: 'halted' }, 30_000)
  const halts = () => relay.logs.flatMap(({ role, reason }) => (role === 'halted' ? [reason] : []))
  // The log comes by a pipe, and may be read later than /readyz.
  await until(() => halts().length > 0)
  expect(halts()).toEqual(['stream_behind'])
  await locker.query('rollback')
  expect(await halted(env, relay)).toHaveLength(1)
})
