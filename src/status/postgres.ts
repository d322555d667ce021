import type pg from 'pg'
import { type Config, OWN_OUTBOX, type PostgresConfig } from '../config/schema.js'
import { connectPostgres, endPostgres } from '../postgres/client/connect.js'
import { serverVersion } from '../postgres/client/server.js'
import { readSlot, type Slot } from '../postgres/replication/slot.js'
import { readSilentStandbySlots, type SilentStandbySlot } from '../postgres/replication/standby-slots.js'
import { readWalsender, type WalsenderActivity } from '../postgres/replication/walsender.js'
import { HALTING_COLUMNS, type HaltingIncident } from '../postgres/state/halting.js'
import { storedLineage } from '../postgres/state/lineage.js'
import { readPartitions } from '../postgres/state/partitions.js'
import { type RepairProgress, readRepairProgress } from '../postgres/state/repair-progress.js'
import { type OutboxStatus, readOutbox } from './outbox.js'

/** What Postgres knows of a relay and its lineage. */
export interface PostgresStatus {
  /** As `server_version_num`. */
  version: number
  /** A standby knows neither sessions that lead nor WAL of its own. */
  standby: boolean
  /** Undefined: there is none for the slot, or no schema. */
  lineage: LineageStatus | undefined
}

export interface LineageStatus {
  lineage: string
  source: string
  outboxTable: string
  confirmedLsn: string | undefined
  /** The walsender that holds the relay's lock. */
  leader: { pid: number; client: string | undefined; since: Date | undefined } | undefined
  /** Relays that wait for the lock, as far as the role may see them. */
  standbys: number
  /** The newest run of a relay as leader. */
  session: SessionStatus | undefined
  /** Ids of the newest. */
  sessions: string[]
  slot: (Slot & { activity: WalsenderActivity | undefined }) | undefined
  /** Read only while the walsender waits for them. */
  silentStandbys: SilentStandbySlot[]
  /** When the newest checkpoint was taken. */
  checkpoint: Date | undefined
  /** Undefined for a mapped table. */
  outbox: OutboxStatus | undefined
  incidents: {
    /** Of the open ones by kind, without gaps that are repaired. */
    counts: Record<string, number>
    newest: HaltingIncident[]
    /** Undefined: none is under way. */
    repair: RepairProgress | undefined
    /** Streams that open gaps name. */
    lostStreams: string[]
  }
  /** Saved heads, the most recent first; `total` may be more. */
  streams: { total: number; heads: { key: string; entry: string }[]; confirmedAt: Date | undefined }
  partitions: Record<string, number>
}

export interface SessionStatus {
  session: string
  hostname: string
  pid: number
  version: string
  startedAt: Date
}

/** Streams that are looked at. */
export const MAX_STREAMS = 10_000
const MAX_INCIDENTS = 20
/** Nothing of this may hold up a server that is in trouble. */
const STATEMENT_MS = 2_000

/** Runs `work` on a connection that bounds every statement. */
export async function withReader<T>(
  config: PostgresConfig,
  name: string,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = await connectPostgres(config, name, 10_000)
  try {
    await client.query(
      `set statement_timeout = ${STATEMENT_MS}; set lock_timeout = 1000; set default_transaction_read_only = on`,
    )
    return await work(client)
  } finally {
    await endPostgres(client)
  }
}

export const readPostgres = (config: Config): Promise<PostgresStatus> =>
  withReader(config.postgres, 'outrider status', async (client) => {
    const version = await serverVersion(client)
    const { rows } = await client.query<{ standby: boolean; present: boolean }>(
      "select pg_is_in_recovery() as standby, to_regclass('outrider.lineage') is not null as present",
    )
    const { standby, present } = rows[0]!
    return { version, standby, lineage: present && !standby ? await readLineage(client, config) : undefined }
  })

async function readLineage(client: pg.ClientBase, { slot }: Config): Promise<LineageStatus | undefined> {
  const stored = await storedLineage(client, slot)
  if (!stored) return undefined
  const { lineage, source, outboxTable, confirmedLsn } = stored
  const leader = await readLeader(client, slot)
  const proof = await readProof(client, lineage)
  const slotStatus = await readSlotStatus(client, slot)
  const waits = slotStatus?.activity?.waitEvent === 'WaitForStandbyConfirmation'
  return {
    ...{ lineage, source, outboxTable, confirmedLsn, leader, slot: slotStatus },
    standbys: await countStandbys(client, slot),
    ...(await readSessions(client, lineage)),
    silentStandbys: waits ? await readSilentStandbySlots(client) : [],
    checkpoint: proof.checkpoint,
    outbox: outboxTable === OWN_OUTBOX.table ? await readOutbox(client, lineage, proof) : undefined,
    incidents: await readIncidents(client, lineage),
    streams: await readStreams(client, lineage),
    partitions: await readPartitions(client),
  }
}

/** The lock is one of 64 bits, of which `pg_locks` shows the halves. */
async function readLeader(client: pg.ClientBase, slot: string): Promise<LineageStatus['leader']> {
  const { rows } = await client.query<{ pid: number; client: string | null; since: Date | null }>(
    `select l.pid, host(client_addr) as client, backend_start as since
     from pg_locks as l left join pg_stat_activity using (pid)
     where locktype = 'advisory' and granted and objsubid = 1
       and l.database = (select oid from pg_database where datname = current_database())
       and (classid::bigint << 32) | objid::bigint = hashtextextended($1, 0)`,
    [`outrider ${slot}`],
  )
  const [found] = rows
  return found && { pid: found.pid, client: found.client ?? undefined, since: found.since ?? undefined }
}

async function countStandbys(client: pg.ClientBase, slot: string): Promise<number> {
  const { rows } = await client.query<{ count: number }>(
    `select count(*)::integer as count from pg_stat_activity
     where backend_type = 'walsender' and application_name = $1 and datname = current_database()
       and pid not in (select pid from pg_locks where locktype = 'advisory' and granted)`,
    [`outrider ${slot}`],
  )
  return rows[0]!.count
}

/** A loop of sessions that fail soon makes one every few seconds. */
const NEWEST_SESSIONS = 100

async function readSessions(client: pg.ClientBase, lineage: string) {
  const { rows } = await client.query<SessionStatus>(
    `select session, hostname, pid, version, started_at as "startedAt" from outrider.session
     where lineage = $1 order by started_at desc limit ${NEWEST_SESSIONS}`,
    [lineage],
  )
  return { session: rows[0], sessions: rows.map(({ session }) => session) }
}

async function readSlotStatus(client: pg.ClientBase, name: string): Promise<LineageStatus['slot']> {
  const slot = await readSlot(client, name)
  if (!slot) return undefined
  const { activePid } = slot
  const activity = activePid === undefined ? undefined : await readWalsender(client, { pid: activePid, slot: name })
  return { ...slot, activity }
}

/** A snapshot from the server's future, after a restore, proves nothing. */
async function readProof(client: pg.ClientBase, lineage: string) {
  const { rows } = await client.query<{ snapshot: string | null; since: Date; checkpoint: Date | null }>(
    `select proof.snapshot::text, coalesce(proof.taken_at, created_at) as since, newest.taken_at as checkpoint
     from outrider.lineage as l
     left join lateral (
       select taken_at from outrider.checkpoint as c where c.lineage = l.lineage order by lsn desc limit 1
     ) as newest on true
     left join lateral (
       select snapshot, taken_at from outrider.checkpoint as c
       where c.lineage = l.lineage and pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
       order by lsn desc limit 1
     ) as proof on true
     where l.lineage = $1`,
    [lineage],
  )
  const { snapshot, since, checkpoint } = rows[0]!
  return { snapshot: snapshot ?? undefined, since, checkpoint: checkpoint ?? undefined }
}

async function readIncidents(client: pg.ClientBase, lineage: string): Promise<LineageStatus['incidents']> {
  const counts = await client.query<{ kind: string; count: number }>(
    `select kind, count(*)::integer as count from outrider.incident
     where lineage = $1 and closed_at is null and repaired_at is null group by kind`,
    [lineage],
  )
  const newest = await client.query<HaltingIncident>(
    `select ${HALTING_COLUMNS} from outrider.incident
     where lineage = $1 and closed_at is null
     order by kind in ('gap', 'foreign') desc, incident.id desc limit ${MAX_INCIDENTS}`,
    [lineage],
  )
  const lost = await client.query<{ key: string }>(
    `select stream_key as key from outrider.gap_stream as g join outrider.incident as i on i.id = g.incident
     where lineage = $1 and closed_at is null and repaired_at is null limit ${MAX_STREAMS}`,
    [lineage],
  )
  const named = newest.rows.map(({ stream }) => stream).filter((stream) => stream !== null)
  return {
    repair: await readRepairProgress(client, lineage),
    lostStreams: [...named, ...lost.rows.map(({ key }) => key)],
    counts: Object.fromEntries(counts.rows.map(({ kind, count }) => [kind, count])),
    newest: newest.rows,
  }
}

async function readStreams(client: pg.ClientBase, lineage: string): Promise<LineageStatus['streams']> {
  const { rows } = await client.query<{ key: string; entry: string; total: number; at: Date }>(
    `select stream_key as key, entry_id as entry, count(*) over ()::integer as total, updated_at as at from outrider.head
     where lineage = $1 order by updated_at desc limit ${MAX_STREAMS}`,
    [lineage],
  )
  return {
    total: rows[0]?.total ?? 0,
    heads: rows.map(({ key, entry }) => ({ key, entry })),
    confirmedAt: rows[0]?.at,
  }
}
