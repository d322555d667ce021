import type { ChainableCommander } from 'ioredis'
import { describe, expect } from 'vitest'
import { closeIncident, type Incident, listIncidents } from '../../src/postgres/incidents.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, startPostgres, startRedis, until } from '../../testkit/services/index.js'
import { test } from './fixture.js'
import type { Scenario } from './scenario.js'
import { Traffic } from './traffic.js'

const STREAM = 'orders'

async function headOf(s: Scenario): Promise<string> {
  const { rows } = await s.postgres.query('select lineage from outrider.lineage')
  return `outrider:{${STREAM}}:head:${rows[0].lineage}`
}

/** Until Postgres has saved the heads of so many streams, the slot would heal a loss. Resolves with the last event's id. */
async function saved(s: Scenario, streams: number, last?: string): Promise<void> {
  await until(
    async () => {
      const { rows } = await s.postgres.query('select stream_key, event_id from outrider.head')
      const orders = rows.find(({ stream_key }) => stream_key === STREAM)
      return rows.length >= streams && (last === undefined || orders?.event_id === last)
    },
    { timeout: 20_000, message: 'saved heads' },
  )
}

/** The relay has found the loss, says so, and still does after it has looked again. Resolves with the incidents. */
async function halted(s: Scenario, relay: RelayProcess): Promise<Incident[]> {
  await relay.is({ role: 'halted', state: 'halted', reason: 'stream_behind' })
  expect(await relay.status()).toMatchObject({
    code: 503,
    message: expect.stringMatching(/Redis has lost events .* Nothing newer is published\. .*incidents show \d+/),
  })
  const looks = () => relay.metric('outrider_errors_total{target="outrider",code="stream_behind"}')
  const before = (await looks()) as number
  const lengths = await published(s)
  await s.insert(STREAM, { newer: true })
  await until(async () => ((await looks()) ?? 0) > before, { message: 'the relay to look again' })
  expect(await published(s)).toEqual(lengths)
  const incidents = await listIncidents(s.postgres)
  for (const incident of incidents) expect(incident).toMatchObject({ kind: 'gap', reason: 'stream_behind' })
  return incidents
}

/** How many entries every stream holds. */
async function published(s: Scenario): Promise<Record<string, number>> {
  const lengths: Record<string, number> = {}
  for (const stream of [STREAM, 'users']) lengths[stream] = await s.redis.xlen(stream)
  return lengths
}

/** Accepting what is lost: the relay goes on by itself, with what it has not confirmed and what comes. */
async function goesOn(s: Scenario, relay: RelayProcess, incidents: Incident[]): Promise<void> {
  for (const { id } of incidents) await closeIncident(s.postgres, id)
  await relay.streaming()
  const id = await s.insert(STREAM, { after: 'the gap' })
  await until(async () => (await s.ids(STREAM)).at(-1) === id, { message: 'events to flow again' })
  expect(await listIncidents(s.postgres)).toEqual([])
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
async function inflict(s: Scenario, { lose }: Loss): Promise<number> {
  const replies = await lose(s.redis.multi(), await headOf(s))
    .xlen(STREAM)
    .exec()
  return replies?.at(-1)?.[1] as number
}

// Each waits most of the time: for the 5 s after which level memory confirms, and for the relay to look again.
describe.concurrent('a gap within seconds, and nothing newer is published', () => {
  test.for(losses)('after $what, where nothing flows', async (loss, { scenario }) => {
    const s = await scenario()
    const relay = await s.relay()
    await relay.streaming()
    await s.insert('users')
    for (let n = 0; n < 4; n++) await s.insert(STREAM, { n })
    const last = await s.insert(STREAM, { n: 4 })
    await saved(s, 2, last)
    const position = await s.redis.hget(await headOf(s), 'position')

    const left = await inflict(s, loss)
    const incidents = await halted(s, relay)
    expect(await s.redis.xlen(STREAM)).toBe(left)
    expect(incidents.map(({ stream }) => stream).sort()).toEqual(loss.streams)
    const incident = incidents.find(({ stream }) => stream === STREAM)
    expect(incident?.detail).toMatchObject({
      expected: { position, event: last },
      until: expect.any(String),
      events: 5,
    })
    await goesOn(s, relay, incidents)
  })

  test.for(losses.filter(({ again }) => !again))(
    'after $what, under load',
    { timeout: 90_000 },
    async (loss, { scenario }) => {
      const s = await scenario()
      const traffic = await Traffic.start(s, { streams: [STREAM, 'users'], writers: 1 })
      const relay = await s.relay()
      await relay.streaming()
      await saved(s, 2)
      await traffic.more(100)

      const left = await inflict(s, loss)
      await traffic.more(100)
      const incidents = await halted(s, relay)
      expect(await s.redis.xlen(STREAM)).toBe(left)
      expect(incidents.map(({ stream }) => stream).sort()).toEqual(loss.streams)
      await traffic.stop()
      await goesOn(s, relay, incidents)
    },
  )
})

test.concurrent('a gap after Redis came back with an older copy of its data', async ({ scenario, skip }) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis({ settings: { appendonly: 'yes', appendfsync: 'always' } })
  const s = await scenario({ redis })
  const relay = await s.relay()
  await relay.streaming()
  const kept = [await s.insert(STREAM), await s.insert(STREAM)]
  await until(async () => (await s.ids(STREAM)).length === kept.length)
  const copy = await redis.cloneData()
  for (let n = 0; n < 3; n++) await s.insert(STREAM)
  const last = await s.insert(STREAM)
  await saved(s, 1, last)

  await redis.restore(copy)
  const incidents = await halted(s, relay)
  expect(await s.ids(STREAM)).toEqual(kept)
  expect(incidents.map(({ detail }) => detail)).toEqual([
    expect.objectContaining({
      expected: expect.objectContaining({ event: last }),
      found: expect.objectContaining({ event: kept.at(-1) }),
      events: 4,
    }),
  ])
  await goesOn(s, relay, incidents)
})

test.concurrent('FLUSHALL before anything was confirmed loses nothing: the slot still has it', async ({ scenario }) => {
  const s = await scenario()
  const relay = await s.relay()
  await relay.streaming()
  const ids = [await s.insert(STREAM), await s.insert(STREAM), await s.insert(STREAM)]
  await until(async () => (await s.ids(STREAM)).length === ids.length)
  await s.redis.flushall()
  expect(await s.redis.exists(STREAM)).toBe(0)
  await until(async () => (await s.ids(STREAM)).length === ids.length, { message: 'the events to come again' })
  expect(await s.ids(STREAM)).toEqual(ids)
  expect(await relay.metric('outrider_sessions_total')).toBe(2)
  expect(await listIncidents(s.postgres)).toEqual([])
})

test('while the next session counts what Redis lost, its looks at the slot wait, and the gap is what it says', async ({
  scenario,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  // Its own: the lock is an open transaction, which holds up every new slot of the server.
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const database = await server.createDatabase()
  const s = await scenario({ database })
  const first = await s.relay()
  await first.streaming()
  await saved(s, 1, await s.insert(STREAM))
  await first.stop()
  await s.redis.flushall()

  // The count gives up after 5 s, and leaves a transaction that takes nothing but its rollback.
  const locker = await database.connect()
  onTestFinished(() => locker.end())
  await locker.query('begin; lock table outrider.outbox in access exclusive mode')
  const relay = await s.relay()
  await relay.is({ role: 'halted' }, 30_000)
  expect(relay.logs.flatMap(({ role, reason }) => (role === 'halted' ? [reason] : []))).toEqual(['stream_behind'])
  await locker.query('rollback')
  expect(await halted(s, relay)).toHaveLength(1)
})
