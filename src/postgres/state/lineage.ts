import type pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import { createSlot, findSlot, foreignSlot } from '../replication/slot-creation.js'

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
  /** Of the tables that it has published from, the current one last; empty where that is not known. */
  outboxOids: number[]
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
  outbox_oids: number[]
}

const COLUMNS = `lineage, slot, publication, source, system_id, timeline, confirmed_lsn::text, publication_state,
  outbox_table, outbox_oids`

/** The lineage of `slot` that is not retired, finished or not. */
export async function storedLineage(client: pg.ClientBase, slot: string): Promise<StoredLineage | undefined> {
  const { rows } = await client.query<LineageRow>(
    `select ${COLUMNS} from outrider.lineage where slot = $1 and retired_at is null`,
    [slot],
  )
  return rows[0] && fromRow(rows[0])
}

/** The lineage of `slot`, ready to publish; undefined before any setup. Throws an OutriderError when setup was interrupted. */
export async function currentLineage(client: pg.ClientBase, slot: string): Promise<Lineage | undefined> {
  const found = await storedLineage(client, slot)
  if (!found) return undefined
  if (found.confirmedLsn === undefined) {
    throw new OutriderError(
      `Expected the lineage of slot ${slot} to be complete, found that its setup was interrupted before the slot was ` +
        'recorded. Run `outrider setup` again: it continues from there.',
    )
  }
  return { ...found, confirmedLsn: found.confirmedLsn }
}

/** The server as it is now, to hold against a lineage. Fails on a standby, which has no WAL of its own. */
export async function serverIdentity(client: pg.ClientBase): Promise<{ systemId: string; timeline: number }> {
  // The control file learns of a new timeline only at the next checkpoint; the name of the WAL file knows it at once.
  const { rows } = await client.query<{ system_id: string; timeline: number }>(
    `select system_identifier::text as system_id,
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer as timeline
     from pg_control_system()`,
  )
  return { systemId: rows[0]!.system_id, timeline: rows[0]!.timeline }
}

interface NewLineage {
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
export async function createLineage(client: pg.ClientBase, { lockTimeout, ...lineage }: NewLineage): Promise<Lineage> {
  return finishLineage(client, await insertLineage(client, lineage), lockTimeout)
}

/** The row alone, without a slot and an LSN; may be part of a transaction. */
export async function insertLineage(
  client: pg.ClientBase,
  { slot, publication, source, outboxTable }: Omit<NewLineage, 'lockTimeout'>,
): Promise<StoredLineage> {
  const { systemId, timeline } = await serverIdentity(client)
  const { rows } = await client.query<LineageRow>(
    `insert into outrider.lineage (slot, publication, source, outbox_table, system_id, timeline, publication_state,
       outbox_oids)
     values ($1, $2, $3, $4, $5, $6, outrider.publication_state($2),
       array_remove(array[outrider.outbox_oid($2, $4)], null))
     returning ${COLUMNS}`,
    [slot, publication, source, outboxTable, systemId, timeline],
  )
  return fromRow(rows[0]!)
}

/** Creates the slot of a lineage that has none yet, or takes the one that an interrupted setup left, and records its LSN. */
export async function finishLineage(
  client: pg.ClientBase,
  lineage: StoredLineage,
  lockTimeout?: number,
): Promise<Lineage> {
  if (lineage.confirmedLsn !== undefined) throw new TypeError(`Lineage ${lineage.lineage} has a slot already.`)
  const slot = await findSlot(client, lineage.slot)
  if (slot && !(slot.here && slot.plugin === 'pgoutput')) throw foreignSlot(lineage.slot, slot)
  if (!slot) {
    // Nothing is decoded yet, so whatever happened to the publication since the interruption left no hole.
    await client.query(
      `update outrider.lineage set publication_state = coalesce(outrider.publication_state(publication), ''),
         outbox_oids = array_remove(array[outrider.outbox_oid(publication, outbox_table)], null)
       where lineage = $1`,
      [lineage.lineage],
    )
    // Before the slot: what it sees is not published by this lineage.
    await client.query('update outrider.lineage set first_snapshot = pg_current_snapshot() where lineage = $1', [
      lineage.lineage,
    ])
    await createSlot(client, lineage.slot, lockTimeout)
  }
  const { rows } = await client.query<LineageRow>(
    `update outrider.lineage as l set confirmed_lsn = s.confirmed_flush_lsn
     from pg_replication_slots as s
     where l.lineage = $1 and l.confirmed_lsn is null and s.slot_name = l.slot
     returning ${COLUMNS}`,
    [lineage.lineage],
  )
  const { confirmedLsn, ...rest } = fromRow(rows[0]!)
  return { ...rest, confirmedLsn: confirmedLsn! }
}

/** Ends a lineage: its slot may then be made again, by another one. */
export async function retireLineage(client: pg.ClientBase, lineage: string): Promise<void> {
  await client.query('update outrider.lineage set retired_at = clock_timestamp() where lineage = $1', [lineage])
}

/** The Redis that events are published to; `address`: a hash of it. */
export async function saveRedis(client: pg.ClientBase, lineage: string, address: string): Promise<void> {
  await client.query('update outrider.lineage set redis = $2 where lineage = $1 and redis is distinct from $2', [
    lineage,
    address,
  ])
}

/** Lineages that are not retired and have another slot. */
export async function otherLineages(client: pg.ClientBase, slot: string): Promise<StoredLineage[]> {
  const { rows } = await client.query<LineageRow>(
    `select ${COLUMNS} from outrider.lineage where slot <> $1 and retired_at is null order by created_at`,
    [slot],
  )
  return rows.map(fromRow)
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
    outboxOids: row.outbox_oids,
  }
}
