import { expect } from 'vitest'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import { peakMemoryMiB } from '../../testkit/peak-memory.js'
import { until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'

/** A team's table: Outrider's own refuses such rows where they are inserted. */
const OUTBOX = {
  table: 'public.events',
  create: 'create table events (id text primary key, type text, payload json)',
}
const MAPPING = `
outbox:
  table: public.events
  stream: events
  columns: { id: id, type: type, data: payload }
`
/** The limit of the Helm chart's relay container. */
const CHART_MEMORY_MIB = 256
/** Longer than the longest string of Node.js, 2^29 - 24 characters. */
const BEYOND_STRINGS = 540_000_000

const insert = `insert into events select $1, 'test.happened', json_build_object('text', repeat('x', $2::int))`

test.runIf(process.platform === 'linux').for([
  ['one row of 60 MB', 'inserted while the relay runs', 1],
  ['three rows of 60 MB in a row', 'inserted while the relay runs', 3],
  ['three rows of 60 MB in a row', 'waiting when the relay starts', 3],
] as const)(
  '%s, %s: incidents without the payload, within the memory of the chart, and the neighbours are published',
  async ([, when, large], { createEnv, configFile }) => {
    const env = await createEnv({ outbox: OUTBOX })
    const start = async () => env.streamingRelay({ OUTRIDER_CONFIG: await configFile(MAPPING) })
    const fill = async () => {
      const sizes = [10, ...Array.from({ length: large }, () => 60_000_000), 10]
      for (const [n, bytes] of sizes.entries()) await env.postgres.query(insert, [`e${n}`, bytes])
    }
    const waiting = when === 'waiting when the relay starts'
    if (waiting) await fill()
    const relay = await start()
    if (!waiting) await fill()
    await until(async () => (await env.ids('events')).length === 2, {
      message: () => `the neighbours to arrive\n${relay.tail(10)}`,
    })
    expect(await env.ids('events')).toEqual(['e0', `e${large + 1}`])
    const incidents = await until(async () => {
      const found = await listIncidents(env.postgres)
      return found.length === large && found
    })
    expect(incidents.map(({ eventId }) => eventId).sort()).toEqual(Array.from({ length: large }, (_, n) => `e${n + 1}`))
    for (const incident of incidents) {
      expect(incident).toMatchObject({
        kind: 'rejected',
        reason: 'too_large',
        stream: 'events',
        row: { type: 'test.happened' },
        detail: { omitted: { payload: 60_000_013 } },
      })
      expect(incident.row).not.toHaveProperty('payload')
    }
    expect(relay.isRunning).toBe(true)
    expect(await relay.metric('outrider_sessions_total')).toBe(1)
    expect(peakMemoryMiB(relay.pid)).toBeLessThan(CHART_MEMORY_MIB)
  },
)

test('a row that is longer than any string of Node.js becomes an incident, and the session continues', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv({ outbox: OUTBOX })
  const relay = await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(MAPPING) })
  await env.postgres.query(insert, ['large', BEYOND_STRINGS])
  await env.postgres.query(insert, ['after', 10])
  await until(async () => (await env.ids('events')).includes('after'), {
    message: () => `the row behind the large one to arrive\n${relay.tail(10)}`,
  })
  const incidents = await until(async () => {
    const found = await listIncidents(env.postgres)
    return found.length > 0 && found
  })
  expect(incidents).toMatchObject([
    { kind: 'rejected', reason: 'too_large', eventId: 'large', detail: { omitted: { payload: BEYOND_STRINGS + 13 } } },
  ])
  expect(await relay.status()).toMatchObject({ code: 200, state: 'streaming' })
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
})

test.for(['debug_logical_replication_streaming = immediate', 'logical_decoding_work_mem = 64'])(
  'rows of 5 MB in one transaction that decoding writes to disk, change by change (%s), are published in order',
  async (setting, { createEnv, configFile, skip }) => {
    const env = await createEnv({ outbox: OUTBOX })
    const { rows } = await env.postgres.query('select from pg_settings where name = $1', [setting.split(' ')[0]])
    if (rows.length === 0) skip('a setting of PostgreSQL 16 and later')
    await env.postgres.query(
      `alter role ${env.postgres.escapeIdentifier(env.slot.replace('outrider', 'relay'))} set ${setting}`,
    )
    const relay = await env.streamingRelay({
      OUTRIDER_CONFIG: await configFile(MAPPING),
      OUTRIDER_MAX_EVENT_BYTES: '8MiB',
    })
    await env.postgres.query('begin')
    for (let n = 0; n < 6; n++) await env.postgres.query(insert, [`e${n}`, 5_000_000])
    await env.postgres.query('commit')
    await until(async () => (await env.ids('events')).length === 6, { message: () => relay.tail(10) })
    expect(await env.ids('events')).toEqual(['e0', 'e1', 'e2', 'e3', 'e4', 'e5'])
    const spilled = await env.postgres.query(
      'select spill_bytes > 0 as spilled from pg_stat_replication_slots where slot_name = $1',
      [env.slot],
    )
    expect(spilled.rows).toEqual([{ spilled: true }])
    expect(await listIncidents(env.postgres)).toEqual([])
    expect(await relay.metric('outrider_sessions_total')).toBe(1)
  },
)
