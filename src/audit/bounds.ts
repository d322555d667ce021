import { setTimeout as pause } from 'node:timers/promises'
import type pg from 'pg'
import { formatLsn, type Lsn, parseLsn } from '../postgres/client/lsn.js'
import { type Checkpoint, takeCheckpoint } from '../postgres/state/checkpoints.js'
import { Snapshot } from '../postgres/state/snapshot.js'

/**
 * Which rows must be in their streams. A checkpoint is a snapshot and an LSN after it: what the snapshot sees is published
 * once the lineage is confirmed past the LSN.
 *
 *   first checkpoint    checkpoint at --since      newest checkpoint      start of the audit
 *   ------|------------------|-------------------------|----------------------|----------> commits
 *   before: not known    older: not asked for    due    due once confirmed        newer: not known yet
 */
export interface Bounds {
  first: Snapshot | undefined
  /** When the first checkpoint was saved, in milliseconds: for rows of mapped tables. */
  firstAt: number | undefined
  newest: Snapshot | undefined
  start: Snapshot
  startLsn: Lsn
  since: Since | undefined
  /** Rows whose entries are older, in milliseconds, may have been emptied by retention. */
  emptiedUntil: number
}

export interface Since {
  /** In milliseconds since 1970. */
  time: number
  /** Of the newest checkpoint from before that time; undefined: every row is younger than all checkpoints. */
  snapshot: string | undefined
  /** No entry of a row that the snapshot does not see is older, in milliseconds by the clock of Redis. */
  entriesFrom: number
}

/** The clocks of Postgres and Redis may differ by so much, in milliseconds. */
export const CLOCK_SKEW_MS = 600_000

interface StoredCheckpoint {
  snapshot: string
  taken: number
}

const SELECT = `select snapshot::text, floor(extract(epoch from taken_at) * 1000)::float8 as taken from outrider.checkpoint
  where lineage = $1`

export async function readBounds(client: pg.Client, lineage: string, since: number | undefined): Promise<Bounds> {
  const start = await takeCheckpoint(client)
  const one = async (rest: string, ...values: unknown[]) =>
    (await client.query<StoredCheckpoint>(`${SELECT} ${rest}`, [lineage, ...values])).rows
  const [first] = await one('order by lsn limit 1')
  return {
    first: first && new Snapshot(first.snapshot),
    firstAt: first?.taken,
    newest: await readNewest(client, lineage),
    start: new Snapshot(start.snapshot),
    startLsn: start.lsn,
    emptiedUntil: await readEmptiedUntil(client, lineage),
    since:
      since === undefined
        ? undefined
        : sinceOf(since, await one('and taken_at <= to_timestamp($2) order by lsn desc limit 2', since / 1000)),
  }
}

/** Their entries were there when the checkpoint was saved that they were emptied by. */
async function readEmptiedUntil(client: pg.Client, lineage: string): Promise<number> {
  const { rows } = await client.query<{ until: Date }>('select until from outrider.emptied where lineage = $1', [
    lineage,
  ])
  return rows[0] ? rows[0].until.getTime() + CLOCK_SKEW_MS : 0
}

/** The snapshot was taken some time before its checkpoint was saved, but after the one before it was saved. */
function sinceOf(time: number, [at, previous]: StoredCheckpoint[]): Since {
  return { time, snapshot: at?.snapshot, entriesFrom: Math.max(0, (previous?.taken ?? 0) - CLOCK_SKEW_MS) }
}

export async function readNewest(client: pg.Client, lineage: string): Promise<Snapshot | undefined> {
  const { rows } = await client.query<StoredCheckpoint>(`${SELECT} order by lsn desc limit 1`, [lineage])
  return rows[0] && new Snapshot(rows[0].snapshot)
}

/** By stream: the rows that it sees were trimmed by the relay. */
export async function readHorizons(client: pg.Client, lineage: string): Promise<Map<string, Snapshot>> {
  const { rows } = await client.query<{ key: string; snapshot: string }>(
    'select stream_key as key, snapshot::text from outrider.horizon where lineage = $1',
    [lineage],
  )
  return new Map(rows.map(({ key, snapshot }) => [key, new Snapshot(snapshot)]))
}

/** The oldest checkpoint at or past the LSN; undefined: there is none yet. */
export async function checkpointAt(client: pg.Client, lineage: string, lsn: Lsn): Promise<Snapshot | undefined> {
  const { rows } = await client.query<StoredCheckpoint>(`${SELECT} and lsn >= $2 order by lsn limit 1`, [
    lineage,
    formatLsn(lsn),
  ])
  return rows[0] && new Snapshot(rows[0].snapshot)
}

/** More than an idle relay passes over: see src/relay/source/standby-status.ts. */
const NUDGE_BYTES = 20_000
const ASK_EVERY_MS = 250

/**
 * Waits up to `wait` milliseconds until everything before `lsn` is confirmed. An idle relay confirms only when WAL was
 * written: a message of 20 kB without a reader gives it that. Where it is not permitted, only the waiting is longer.
 */
export async function awaitConfirmed(client: pg.Client, lineage: string, lsn: Checkpoint['lsn'], wait: number) {
  const deadline = performance.now() + wait
  for (let asked = false; ; asked = true) {
    const { rows } = await client.query('select confirmed_lsn::text as lsn from outrider.lineage where lineage = $1', [
      lineage,
    ])
    if (rows[0] && parseLsn(rows[0].lsn) >= lsn) return true
    if (performance.now() >= deadline) return false
    if (!asked) await nudge(client)
    await pause(Math.min(ASK_EVERY_MS, wait))
  }
}

const nudge = (client: pg.Client): Promise<unknown> =>
  client
    .query("select pg_logical_emit_message(false, 'outrider audit', repeat('-', $1))", [NUDGE_BYTES])
    .catch(() => undefined)

export interface RejectedEvent {
  stream: string
  id: string
}

const REJECTED_PAGE = 5_000

/** The events that incidents of the lineage name as not published, in pages. */
export async function* readRejected(client: pg.Client, lineage: string): AsyncGenerator<RejectedEvent[]> {
  for (let after = '0'; ; ) {
    const { rows } = await client.query<RejectedEvent & { incident: string }>(
      `select id::text as incident, coalesce(stream, '') as stream, coalesce(event_id, '') as id from outrider.incident
       where lineage = $1 and kind = 'rejected' and id > $2::bigint order by id limit ${REJECTED_PAGE}`,
      [lineage, after],
    )
    if (rows.length > 0) yield rows
    if (rows.length < REJECTED_PAGE) return
    after = rows.at(-1)!.incident
  }
}
