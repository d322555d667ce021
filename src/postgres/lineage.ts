import type pg from 'pg'
import { Failure } from '../failure.js'
import { sqlState } from './transaction.js'

/** One unbroken history of publishing from one database through one slot: a row of `outrider.lineage`. */
export interface Lineage {
  lineage: string
  slot: string
  publication: string
  source: string
  systemId: string
  timeline: number
  /** Postgres' text form, as of when it was read. */
  confirmedLsn: string
  publicationState: string
  /** `schema.table` */
  outboxTable: string
}

/** A lineage whose setup may have been interrupted: `confirmedLsn` is undefined until its slot exists. */
export type StoredLineage = Omit<Lineage, 'confirmedLsn'> & { confirmedLsn: string | undefined }

interface LineageRow {
  lineage: string
  slot: string
  publication: string
  source: string
  system_id: string
  timeline: number
  confirmed_lsn: string | null
  publication_state: string
  outbox_table: string
}

const COLUMNS =
  'lineage, slot, publication, source, system_id, timeline, confirmed_lsn::text, publication_state, outbox_table'

/** The lineage of `slot` that is not retired, finished or not. */
export async function storedLineage(client: pg.Client, slot: string): Promise<StoredLineage | undefined> {
  const { rows } = await client.query<LineageRow>(
    `select ${COLUMNS} from outrider.lineage where slot = $1 and retired_at is null`,
    [slot],
  )
  return rows[0] && fromRow(rows[0])
}

/** The lineage of `slot`, ready to publish; undefined before any setup. Throws a Failure when setup was interrupted. */
export async function currentLineage(client: pg.Client, slot: string): Promise<Lineage | undefined> {
  const found = await storedLineage(client, slot)
  if (!found) return undefined
  if (found.confirmedLsn === undefined) {
    throw new Failure(
      `Expected the lineage of slot ${slot} to be complete, found that its setup was interrupted before the slot was ` +
        'recorded. Run `outrider setup` again: it goes on from there.',
    )
  }
  return { ...found, confirmedLsn: found.confirmedLsn }
}

/** The server as it is now, to hold against a lineage. Fails on a standby, which has no WAL of its own. */
export async function serverIdentity(client: pg.Client): Promise<{ systemId: string; timeline: number }> {
  // The control file learns of a new timeline only at the next checkpoint; the name of the WAL file knows it at once.
  const { rows } = await client.query<{ system_id: string; timeline: number }>(
    `select system_identifier::text as system_id,
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer as timeline
     from pg_control_system()`,
  )
  return { systemId: rows[0]!.system_id, timeline: rows[0]!.timeline }
}

export interface NewLineage {
  slot: string
  publication: string
  source: string
  outboxTable: string
  /** How long, in ms, the slot may wait for the write transactions that are open now. */
  lockTimeout?: number
}

/**
 * Starts a lineage: its row first, then its slot, then the slot's LSN in the row. A crash in between leaves a row without
 * an LSN, which `finishLineage` completes. The publication must exist already.
 */
export async function createLineage(client: pg.Client, { lockTimeout, ...lineage }: NewLineage): Promise<Lineage> {
  return finishLineage(client, await insertLineage(client, lineage), lockTimeout)
}

/** The row alone, without a slot and an LSN; may be part of a transaction. */
export async function insertLineage(
  client: pg.Client,
  { slot, publication, source, outboxTable }: Omit<NewLineage, 'lockTimeout'>,
): Promise<StoredLineage> {
  const { systemId, timeline } = await serverIdentity(client)
  const { rows } = await client.query<LineageRow>(
    `insert into outrider.lineage (slot, publication, source, outbox_table, system_id, timeline, publication_state)
     values ($1, $2, $3, $4, $5, $6, outrider.publication_state($2))
     returning ${COLUMNS}`,
    [slot, publication, source, outboxTable, systemId, timeline],
  )
  return fromRow(rows[0]!)
}

/** Creates the slot of a lineage that has none yet, or takes the one that an interrupted setup left, and records its LSN. */
export async function finishLineage(client: pg.Client, lineage: StoredLineage, lockTimeout = 10_000): Promise<Lineage> {
  if (lineage.confirmedLsn !== undefined) throw new TypeError(`Lineage ${lineage.lineage} has a slot already.`)
  const slot = await findSlot(client, lineage.slot)
  if (!slot) await createSlot(client, lineage.slot, lockTimeout)
  const { rows } = await client.query<LineageRow>(
    `update outrider.lineage set confirmed_lsn = slot.confirmed_flush_lsn
     from pg_replication_slots as slot
     where lineage = $1 and confirmed_lsn is null and slot_name = $2
     returning ${COLUMNS.replace('slot,', 'lineage.slot,')}`,
    [lineage.lineage, lineage.slot],
  )
  return { ...fromRow(rows[0]!), confirmedLsn: rows[0]!.confirmed_lsn! }
}

export interface SlotRow {
  plugin: string | null
  database: string | null
  active: boolean
  walStatus: string | null
  confirmedLsn: string | null
  /** Whether it belongs to the database that the client is connected to. */
  here: boolean
}

/** The replication slot of this name, anywhere in the cluster. */
export async function findSlot(client: pg.Client, slot: string): Promise<SlotRow | undefined> {
  const { rows } = await client.query<SlotRow>(
    `select plugin, database, active, wal_status as "walStatus", confirmed_flush_lsn::text as "confirmedLsn",
       coalesce(database = current_database(), false) as here
     from pg_replication_slots where slot_name = $1`,
    [slot],
  )
  return rows[0]
}

async function createSlot(client: pg.Client, slot: string, lockTimeout: number): Promise<void> {
  const { rows } = await client.query<{ version: number }>(
    "select current_setting('server_version_num')::integer as version",
  )
  const failover = rows[0]!.version >= 170_000 ? ', failover => true' : ''
  // A session-wide setting: Postgres refuses to create a slot in a transaction that has written.
  await client.query("select set_config('lock_timeout', $1, false)", [`${lockTimeout}ms`])
  try {
    await client.query(
      `select pg_create_logical_replication_slot($1, 'pgoutput', temporary => false, twophase => false${failover})`,
      [slot],
    )
  } catch (error) {
    throw await explain(client, error, slot, lockTimeout)
  } finally {
    await client.query('reset lock_timeout').catch(() => undefined)
  }
}

async function explain(client: pg.Client, error: unknown, slot: string, lockTimeout: number): Promise<unknown> {
  switch (sqlState(error)) {
    case '55P03':
      return new Failure(
        `Slot ${slot} could not be created within ${lockTimeout} ms: Postgres first waits for every open write transaction ` +
          `of the cluster to end. Open now: ${await openWriters(client)}. End them, or wait, and run the command again; ` +
          'it goes on from here.',
        { cause: error },
      )
    case '42501':
      return new Failure(
        `Slot ${slot} could not be created: the role lacks REPLICATION. As an administrator: ` +
          '`alter role <role> replication`; on Amazon RDS `grant rds_replication to <role>`. Then run the command again.',
        { cause: error },
      )
    case '53400':
      return new Failure(
        `Slot ${slot} could not be created: every replication slot is in use. Raise max_replication_slots and restart ` +
          'Postgres, or drop a slot that nobody needs (`select * from pg_replication_slots`). Then run the command again.',
        { cause: error },
      )
    default:
      return error
  }
}

/** Who holds a transaction id, for a person. Locks are visible to all; what another role's session does is not. */
async function openWriters(client: pg.Client): Promise<string> {
  const { rows } = await client.query<{ what: string }>(
    `select format('pid %s (%s, database %s, open for %s)', pid, coalesce(nullif(application_name, ''), usename, 'unknown'),
         datname, coalesce(date_trunc('second', clock_timestamp() - xact_start)::text, 'unknown')) as what
       from pg_locks join pg_stat_activity using (pid)
       where locktype = 'transactionid' and mode = 'ExclusiveLock' and granted and pid <> pg_backend_pid()
     union all
     select format('prepared transaction %s (database %s, open for %s)', gid, database,
         date_trunc('second', clock_timestamp() - prepared))
       from pg_prepared_xacts`,
  )
  return rows.map(({ what }) => what).join('; ') || 'none any more'
}

function fromRow(row: LineageRow): StoredLineage {
  return {
    lineage: row.lineage,
    slot: row.slot,
    publication: row.publication,
    source: row.source,
    systemId: row.system_id,
    timeline: row.timeline,
    confirmedLsn: row.confirmed_lsn ?? undefined,
    publicationState: row.publication_state,
    outboxTable: row.outbox_table,
  }
}
