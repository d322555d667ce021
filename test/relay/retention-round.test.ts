import { randomBytes } from 'node:crypto'
import pino from 'pino'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Config } from '../../src/config/schema.js'
import { readBuckets } from '../../src/postgres/outbox/buckets.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { StateStore } from '../../src/relay/confirm/state-store.js'
import { startRetention } from '../../src/relay/retention/retention.js'
import { bytesOf } from '../../src/relay/retention/retention-plan.js'
import { ServerClock } from '../../src/relay/retention/server-clock.js'
import { createRelayMetrics } from '../../src/telemetry/metrics.js'
import { until } from '../../testkit/services/index.js'
import { type BucketsEnv, CURRENT, createBucketsEnv } from '../postgres/buckets-env.js'

/** Its rows are older than any window. */
const DUE = (CURRENT - 22 + 24) % 24
const OLD = 3
const RECENT = 10
const HOUR = 3_600_000

let env: BucketsEnv
let stateStore: StateStore

beforeEach(async () => {
  env = await createBucketsEnv()
  const { rows } = await env.client.query('select pg_backend_pid() as pid, pg_advisory_lock(1)')
  const lineage = await currentLineage(env.client, env.slot)
  stateStore = new StateStore(env.client, lineage!, crypto.randomUUID(), rows[0].pid)
})

afterEach(() => env.close())

/** What the first round of a relay logs, up to a line that begins so, and what its metrics say then. */
async function round(settings: Partial<Config> = {}, serverClock = new ServerClock(), last = '') {
  const lines: Record<string, unknown>[] = []
  const metrics = createRelayMetrics()
  const config = {
    ...{ slot: env.slot, outbox: { table: 'outrider.outbox' }, isRetentionSet: false },
    ...{ postgres: { url: env.database.url, connectTimeout: 5_000 }, retention: 72 * HOUR, retentionMaxSize: 2 ** 40 },
    ...settings,
  } as Config
  const end = new AbortController()
  const log = pino({}, { write: (line) => void lines.push(JSON.parse(line)) })
  startRetention({ config, log, metrics, stateStore, serverClock }, end.signal)
  await until(() => String(lines.at(-1)?.msg).startsWith(last) && lines.length > 0)
  end.abort()
  const read = async (name: string) => (await metrics.registry.getSingleMetric(`outrider_outbox_${name}`)!.get()).values
  const blocked = (await read('retention_blocked'))
    .filter(({ value }) => value === 1)
    .map(({ labels }) => labels.reason)
  const held = (await read('retention_held')).map(({ labels }) => labels.slot)
  return { lines, line: lines.at(-1)!, blocked, held, seconds: (await read('retention_seconds'))[0]?.value }
}

/** Runs `change`, and expects `undo` to lead on. */
async function expectBlocked(reason: string, change: string, undo?: string, settings: Partial<Config> = {}) {
  await env.client.query(change)
  const { line, blocked, held } = await round(settings)
  expect([line.reason, line.level, blocked]).toEqual([reason, 40, [reason]])
  // A lineage may be the reason, and is named.
  const { slot } = env
  const isLineage = ['gap', 'checkpoint', 'slot'].includes(reason)
  expect([line.lineages, held]).toEqual(
    isLineage ? [[{ lineage: stateStore.lineage.lineage, slot }], [slot]] : [undefined, []],
  )
  if (undo !== undefined) await env.client.query(undo)
}

test('what holds up retention is logged, and a metric', async () => {
  await env.insert(DUE)
  await env.checkpoint(78)
  expect((await round({ retention: 0 })).blocked).toEqual([])
  const clock = new ServerClock()
  clock.read(0, 0)
  const set = await round({}, clock)
  expect([set.line.reason, set.blocked]).toEqual(['clock_changed', ['clock_changed']])

  const writer = await env.database.connect()
  await writer.query(
    `set application_name = 'by-hand'; begin;
     insert into outrider.incident (lineage, kind, reason) select lineage, 'operator', 'noted' from outrider.lineage`,
  )
  const inUse = await round()
  expect([inUse.line.reason, inUse.blocked]).toEqual(['in_use', ['in_use']])
  expect(inUse.line.holders).toContain('by-hand')
  await writer.end()

  const incident = (kind: string, reason: string) =>
    `insert into outrider.incident (lineage, kind, reason, position, event_id, detail)
     select lineage, '${kind}', '${reason}', '1', id::text, '{"omitted": {}}' from outrider.lineage, outrider.outbox`
  await expectBlocked('gap', incident('gap', 'stream_behind'), 'delete from outrider.incident')
  await expectBlocked('rejected', incident('rejected', 'too_large'), 'delete from outrider.incident')
  await expectBlocked('checkpoint', 'select', undefined, { retention: 79 * HOUR })
  const lsn = 'update outrider.checkpoint set lsn = '
  await expectBlocked('slot', `${lsn} lsn + 1000000`, `${lsn} lsn - 1000000`)
  await expectBlocked('unproven', "update outrider.outbox set txid = '1000000000'", undefined, { retentionMaxSize: 1 })
  await env.client.query("update outrider.outbox set txid = '3'")

  const slow = `create or replace function outrider.empty_bucket(bucket smallint, taken_before timestamptz) returns text language sql
    as 'select pg_cancel_backend(pg_backend_pid())::text from pg_sleep(0)'`
  await expectBlocked('slow', slow)
  await expectBlocked('index', 'drop index outrider.outbox_txid')
  await expectBlocked('setup', 'alter table only outrider.outbox alter bucket set default 1')
})

test('an installation from before retention keeps its rows, and says so, until its settings ask for it', async () => {
  const id = await env.insert(DUE)
  await env.checkpoint(78)
  await env.client.query('update outrider.lineage set predates_retention = true')
  const { line, blocked } = await round()
  expect([line.reason, blocked]).toEqual(['not_asked', []])
  expect(line.msg).toContain('set `retention: default`')
  expect(await env.ids(DUE)).toEqual([id])
  expect((await round({ isRetentionSet: true })).line.msg).toBe('outbox bucket emptied')
  expect(await env.ids(DUE)).toEqual([])
})

test('a table that is larger than it may be is emptied before the window, from its oldest bucket on, as far as it is published', async () => {
  const insert = (bucket: number) =>
    env.client.query(
      "insert into outrider.outbox (stream, type, data, bucket) values ('orders', 'placed', to_json($2::text), $1)",
      [bucket, randomBytes(450_000).toString('hex')],
    )
  for (const bucket of [OLD, OLD + 1]) for (let n = 0; n < 2; n++) await insert(bucket)
  // It is younger than the rows of either bucket should be: the shortest window decides.
  await env.checkpoint(10)
  await insert(RECENT)
  const { lines, line, seconds } = await round(
    { retentionMaxSize: bytesOf(await readBuckets(env.client)) - 1 },
    undefined,
    'rows of the outbox are kept',
  )
  expect(lines.filter(({ msg }) => msg === 'outbox bucket emptied').map(({ bucket }) => bucket)).toEqual([OLD])
  expect(line.msg).toContain('it was larger than `retentionMaxSize`')
  expect(seconds).toBeCloseTo(10 * 3_600, -2)
  expect([(await env.ids(OLD)).length, (await env.ids(OLD + 1)).length, (await env.ids(RECENT)).length]).toEqual([
    0, 2, 1,
  ])
})
