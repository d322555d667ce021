import type { ChainableCommander } from 'ioredis'
import { expect } from 'vitest'
import type { Incident } from '../../src/postgres/state/incident.js'
import { closeIncident, listIncidents } from '../../src/postgres/state/incidents.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { Traffic } from './traffic.js'

export const STREAM = 'orders'

export async function headOf(env: RelayEnv): Promise<string> {
  const { rows } = await env.postgres.query('select lineage from outrider.lineage')
  return `outrider:{${STREAM}}:head:${rows[0].lineage}`
}

/** Until Postgres has saved the heads of so many streams, the slot would heal a loss. Resolves with the last event's id. */
export async function saved(env: RelayEnv, streams: number, last?: string): Promise<void> {
  await until(
    async () => {
      const { rows } = await env.postgres.query('select stream_key, event_id from outrider.head')
      const orders = rows.find(({ stream_key }) => stream_key === STREAM)
      return rows.length >= streams && (last === undefined || orders?.event_id === last)
    },
    { message: 'saved heads' },
  )
}

/** The relay has found the loss, says so, and still does after it has looked again. Resolves with the incidents. */
export async function halted(env: RelayEnv, relay: RelayProcess): Promise<Incident[]> {
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

/** The streams of the gaps, with what is known of the loss. */
export async function lostStreams(env: RelayEnv): Promise<Record<string, object>> {
  const { rows } = await env.postgres.query('select stream_key, detail from outrider.gap_stream order by stream_key')
  return Object.fromEntries(rows.map(({ stream_key, detail }) => [stream_key, detail]))
}

/** How many entries every stream holds. */
export async function published(env: RelayEnv): Promise<Record<string, number>> {
  const lengths: Record<string, number> = {}
  for (const stream of [STREAM, 'users']) lengths[stream] = await env.redis.xlen(stream)
  return lengths
}

/** Accepting what is lost: the relay continues by itself, with what it has not confirmed and what comes. */
export async function goesOn(env: RelayEnv, relay: RelayProcess, incidents: Incident[]): Promise<void> {
  for (const { id } of incidents) await closeIncident(env.postgres, id)
  await relay.streaming()
  const id = await env.insert(STREAM, { after: 'the gap' })
  await until(async () => (await env.ids(STREAM)).at(-1) === id, { message: 'events to flow again' })
  expect(await listIncidents(env.postgres)).toEqual([])
}

export interface Loss {
  what: string
  streams: string[]
  /** The stream is whole: what is lost cannot be told. */
  headAlone?: true
  /** The same for the relay as another one: once is enough. */
  again?: true
  lose(redis: ChainableCommander, head: string): ChainableCommander
}

export const losses: Loss[] = [
  { what: 'FLUSHALL', streams: [STREAM, 'users'], lose: (redis) => redis.flushall() },
  { what: 'DEL of a stream', streams: [STREAM], lose: (redis) => redis.del(STREAM) },
  {
    what: 'DEL of a stream that a consumer creates again',
    again: true,
    streams: [STREAM],
    lose: (redis) => redis.del(STREAM).xgroup('CREATE', STREAM, 'workers', '0', 'MKSTREAM'),
  },
  { what: 'DEL of a head', headAlone: true, streams: [STREAM], lose: (redis, head) => redis.del(head) },
]

/** What the stream holds from then on, if nothing newer comes. */
export async function inflict(env: RelayEnv, { lose }: Loss): Promise<number> {
  const replies = await lose(env.redis.multi(), await headOf(env))
    .xlen(STREAM)
    .exec()
  return replies?.at(-1)?.[1] as number
}

/** The tests of these losses in which events flow. */
export function underLoad(which: readonly Loss[]): void {
  test.for(which)('after $what, under load', async (loss, { env }) => {
    const traffic = await Traffic.start(env, { streams: [STREAM, 'users'], writers: 1 })
    const relay = await env.streamingRelay()
    await saved(env, 2)
    await traffic.more(100)

    const left = await inflict(env, loss)
    await traffic.more(100)
    const incidents = await halted(env, relay)
    expect(await env.redis.xlen(STREAM)).toBe(left)
    expect(incidents).toHaveLength(1)
    expect(Object.keys(await lostStreams(env))).toEqual(loss.streams)
    await traffic.stop()
    await goesOn(env, relay, incidents)
  })
}
