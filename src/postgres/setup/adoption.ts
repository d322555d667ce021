import pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import { type OutboxMapping, OWN_OUTBOX } from '../../config/schema.js'
import { streamKey } from '../../event/names.js'
import { partitionOf } from '../../event/partition.js'
import { inTransaction } from '../client/transaction.js'
import { missingColumns, readOutboxColumns } from '../outbox/columns.js'
import { LAST_WRITE } from '../outbox/row-xid.js'
import { parseTable, quoteTableName } from '../outbox/table-name.js'
import { ensurePublication } from '../replication/publication.js'
import { dropSlot, type FoundSlot, findSlot, requireDroppable } from '../replication/slot-creation.js'
import { closeAsAdopted } from '../state/incidents.js'
import {
  finishLineage,
  insertLineage,
  type Lineage,
  retireLineage,
  type StoredLineage,
  serverIdentity,
} from '../state/lineage.js'
import { readPartitions } from '../state/partitions.js'
import { inheritTrimming } from '../state/trimming.js'
import { type Renewed, renewTxids } from './restored-rows.js'

/** What `adopt` is about to decide on: the lineage as it was stored, and the server as it is. */
export interface AdoptionPlan {
  stored: StoredLineage
  server: { systemId: string; timeline: number }
  slot: FoundSlot | undefined
  heads: number
  openIncidents: number
  leftOut: LeftOut
}

/** The rows in the outbox that no checkpoint proves to be published, and that a new lineage will not publish. */
export interface LeftOut {
  rows: number
  /** The proof that the others were published: when the newest checkpoint was taken. Null: there is none to rely on. */
  provenUntil: Date | null
  oldest: Date | null
  newest: Date | null
  /** The first of them. */
  events: LeftOutEvent[]
  /** Why none is listed, where there are rows. */
  unlisted?: string
}

export interface LeftOutEvent {
  id: string
  /** The key in Redis; null where the row names none. */
  stream: string | null
  /** Null of a mapped table, whose time may be any that the application gives. */
  createdAt: Date | null
}

/** Events that are listed one by one. */
const MAX_LISTED = 1_000

/** `mapping`: how rows become events, of the configuration. */
export async function planAdoption(
  client: pg.ClientBase,
  stored: StoredLineage,
  mapping: OutboxMapping,
): Promise<AdoptionPlan> {
  const server = await serverIdentity(client)
  const { rows } = await client.query<{ heads: number; incidents: number }>(
    `select (select count(*) from outrider.head where lineage = $1)::integer as heads,
       (select count(*) from outrider.incident
        where lineage = $1 and closed_at is null and kind in ('gap', 'foreign'))::integer as incidents`,
    [stored.lineage],
  )
  return {
    stored,
    server,
    slot: await findSlot(client, stored.slot),
    heads: rows[0]!.heads,
    openIncidents: rows[0]!.incidents,
    leftOut: await readLeftOut(client, stored, mapping, server.systemId === stored.systemId),
  }
}

async function readLeftOut(
  client: pg.ClientBase,
  stored: StoredLineage,
  mapping: OutboxMapping,
  sameServer: boolean,
): Promise<LeftOut> {
  const unlisted = await whyUnlisted(client, stored, mapping)
  const unproven = unprovenRows(stored, unlisted === undefined ? mapping : undefined)
  const values = [stored.lineage, sameServer]
  const { rows } = await client.query<Omit<LeftOut, 'events'>>(
    `${unproven}
     select count(*)::float8 as rows, min(created_at) as oldest, max(created_at) as newest,
       (select taken_at from proof) as "provenUntil"
     from unproven`,
    values,
  )
  if (unlisted !== undefined) return { ...rows[0]!, events: [], unlisted }
  return { ...rows[0]!, events: await listLeftOut(client, unproven, values) }
}

async function whyUnlisted(
  client: pg.ClientBase,
  { outboxTable }: StoredLineage,
  mapping: OutboxMapping,
): Promise<string | undefined> {
  if (mapping.table !== outboxTable) {
    return `outbox.table is ${mapping.table} in this configuration, which does not say where ids and streams are in ${outboxTable}`
  }
  const columns = (await readOutboxColumns(client, parseTable(outboxTable))) ?? []
  const [missing] = missingColumns(mapping, columns)
  return missing && `${outboxTable} has no column ${missing[0]} (${missing[1]})`
}

async function listLeftOut(client: pg.ClientBase, unproven: string, values: unknown[]): Promise<LeftOutEvent[]> {
  const partitions = await readPartitions(client)
  const { rows } = await client.query<{
    id: string
    stream: string | null
    subject: string | null
    createdAt: Date | null
  }>(
    `${unproven} select id, stream, subject, created_at as "createdAt" from unproven order by place limit ${MAX_LISTED}`,
    values,
  )
  return rows.map(({ id, stream, subject, createdAt }) => {
    const count = stream === null ? undefined : partitions[stream]
    return { id, stream: stream && count ? streamKey(stream, partitionOf(subject ?? id, count)) : stream, createdAt }
  })
}

/**
 * SQL that names as `unproven` the rows that the newest checkpoint does not prove to be published. Transaction ids mean
 * nothing on another server; nor do those of a snapshot from its future, after a restore. `mapping`: undefined where a
 * mapped table's columns are not known; it has no column for the transaction that inserted a row, and of the one that wrote it last only
 * what is below `xmin` of the snapshot has ended for certain.
 */
function unprovenRows({ outboxTable }: StoredLineage, mapping: OutboxMapping | undefined): string {
  const own = outboxTable === OWN_OUTBOX.table
  const columns = own
    ? 'o.id::text as id, stream, subject, created_at, seq as place'
    : `${mapping ? mappedColumns(mapping) : ''} null::timestamptz as created_at, ${LAST_WRITE} as place`
  const proven = own
    ? 'pg_visible_in_snapshot(o.txid, proof.snapshot)'
    : `${LAST_WRITE} < pg_snapshot_xmin(proof.snapshot)::text::bigint`
  return `
  with proof as (
    select snapshot, taken_at from outrider.checkpoint
    where lineage = $1 and $2 and pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
    order by lsn desc limit 1
  ), unproven as (
    select ${columns} from ${quoteTableName(outboxTable)} as o left join proof on true
    where proof.snapshot is null or not ${proven}
  )`
}

function mappedColumns({ stream, columns }: OutboxMapping): string {
  const name = stream
    .split(/\{([^}]+)\}/)
    .map((part, i) => (i % 2 === 0 ? pg.escapeLiteral(part) : `(${textOf(part)})`))
    .join(' || ')
  return `${textOf(columns.id)} as id, ${name} as stream, ${columns.subject ? textOf(columns.subject) : 'null'} as subject,`
}

/** A column's value as the relay gets it: what the type's output function writes. */
const textOf = (column: string): string => {
  const name = `o.${pg.escapeIdentifier(column)}`
  return `case when ${name} is null then null else format('%s', ${name}) end`
}

/**
 * Ends the old lineage and starts a new one with a slot of its own. The old slot goes first: an interruption then leaves
 * either the old lineage without a slot, which the relay refuses, or the new one, which `outrider setup` completes.
 */
export async function adoptLineage(
  client: pg.ClientBase,
  { stored, slot }: AdoptionPlan,
  lockTimeout?: number,
): Promise<{ lineage: Lineage; closed: string[] } & Renewed> {
  if (slot) requireDroppable(stored.slot, slot)
  await ensurePublication(client, stored.publication, parseTable(stored.outboxTable))
  if (slot) await dropSlot(client, stored.slot)
  const { started, closed } = await inTransaction(client, async () => {
    await retireLineage(client, stored.lineage)
    const closed = (await closeAsAdopted(client, stored.lineage)).map(({ id }) => id)
    const started = await insertLineage(client, stored)
    await inheritTrimming(client, stored.lineage, started.lineage)
    return { started, closed }
  })
  // Before the snapshot that divides what the new lineage publishes from what was there before.
  const renewed = await renewTxids(client, started)
  return { lineage: await finishLineage(client, started, lockTimeout), closed, ...renewed }
}

/** The lineage to adopt from. */
export function requireStored(stored: StoredLineage | undefined, slot: string): StoredLineage {
  if (stored) return stored
  throw new OutriderError(
    `Expected a lineage for slot ${slot} in this database, found none: there is nothing to adopt. Run \`outrider setup\`; ` +
      'if the database had another name before, its slot may have, too: give it in OUTRIDER_SLOT.',
  )
}
