import type pg from 'pg'
import { OWN_OUTBOX } from '../config/schema.js'
import { streamKey } from '../event/names.js'
import { partitionOf } from '../event/partition.js'
import { Failure } from '../failure.js'
import { closeAsAdopted } from './incidents.js'
import {
  finishLineage,
  insertLineage,
  type Lineage,
  retireLineage,
  type StoredLineage,
  serverIdentity,
} from './lineage.js'
import { readPartitions } from './partitions.js'
import { ensurePublication } from './publication.js'
import { dropSlot, type FoundSlot, findSlot, requireDroppable } from './slot-creation.js'
import { parseTable, quoteTableName } from './table.js'
import { inTransaction } from './transaction.js'

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
  /** The first of them, of Outrider's own table. */
  events: LeftOutEvent[]
}

export interface LeftOutEvent {
  id: string
  /** The key in Redis. */
  stream: string
  createdAt: Date
}

/** Events that are listed one by one. */
const MAX_LISTED = 1_000

export async function planAdoption(client: pg.ClientBase, stored: StoredLineage): Promise<AdoptionPlan> {
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
    leftOut: await countLeftOut(client, stored, server.systemId === stored.systemId),
  }
}

async function countLeftOut(client: pg.ClientBase, stored: StoredLineage, sameServer: boolean): Promise<LeftOut> {
  if (stored.outboxTable !== OWN_OUTBOX.table) {
    const { rows } = await client.query<{ rows: number }>(
      `select count(*)::float8 as rows from ${quoteTableName(stored.outboxTable)}`,
    )
    return { rows: rows[0]!.rows, provenUntil: null, oldest: null, newest: null, events: [] }
  }
  const values = [stored.lineage, sameServer]
  const { rows } = await client.query<Omit<LeftOut, 'events'>>(
    `${UNPROVEN}
     select count(*)::float8 as rows, min(created_at) as oldest, max(created_at) as newest,
       (select taken_at from proof) as "provenUntil"
     from unproven`,
    values,
  )
  return { ...rows[0]!, events: await listLeftOut(client, values) }
}

async function listLeftOut(client: pg.ClientBase, values: unknown[]): Promise<LeftOutEvent[]> {
  const partitions = await readPartitions(client)
  const { rows } = await client.query<{ id: string; stream: string; subject: string | null; createdAt: Date }>(
    `${UNPROVEN} select id::text, stream, subject, created_at as "createdAt" from unproven order by seq limit ${MAX_LISTED}`,
    values,
  )
  return rows.map(({ id, stream, subject, createdAt }) => {
    const count = partitions[stream]
    return { id, stream: count ? streamKey(stream, partitionOf(subject ?? id, count)) : stream, createdAt }
  })
}

/**
 * The rows that the newest checkpoint does not see. Transaction ids mean nothing on another server; nor do those of a
 * snapshot from its future, after a restore.
 */
const UNPROVEN = `
  with proof as (
    select snapshot, taken_at from outrider.checkpoint
    where lineage = $1 and $2 and pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
    order by lsn desc limit 1
  ), unproven as (
    select o.* from outrider.outbox as o left join proof on true
    where proof.snapshot is null or not pg_visible_in_snapshot(o.txid, proof.snapshot)
  )`

/**
 * Ends the old lineage and starts a new one with a slot of its own. The old slot goes first: an interruption then leaves
 * either the old lineage without a slot, which the relay refuses, or the new one, which `outrider setup` completes.
 */
export async function adopt(
  client: pg.ClientBase,
  { stored, slot }: AdoptionPlan,
  lockTimeout?: number,
): Promise<{ lineage: Lineage; closed: string[] }> {
  if (slot) requireDroppable(stored.slot, slot)
  await ensurePublication(client, stored.publication, parseTable(stored.outboxTable))
  if (slot) await dropSlot(client, stored.slot)
  const { started, closed } = await inTransaction(client, async () => {
    await retireLineage(client, stored.lineage)
    const closed = (await closeAsAdopted(client, stored.lineage)).map(({ id }) => id)
    return { started: await insertLineage(client, stored), closed }
  })
  return { lineage: await finishLineage(client, started, lockTimeout), closed }
}

/** The lineage to adopt from. */
export function requireStored(stored: StoredLineage | undefined, slot: string): StoredLineage {
  if (stored) return stored
  throw new Failure(
    `Expected a lineage for slot ${slot} in this database, found none: there is nothing to adopt. Run \`outrider setup\`; ` +
      'if the database had another name before, its slot may have, too: give it in OUTRIDER_SLOT.',
  )
}
