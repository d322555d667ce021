import type pg from 'pg'
import { OutriderError } from '../base/failure.js'
import type { OutboxMapping } from '../config/schema.js'
import { readPublishedTable } from '../postgres/outbox/published-table.js'
import { findOmissions } from '../postgres/replication/publication.js'
import type { Lineage } from '../postgres/state/lineage.js'
import { HaltError } from './errors.js'
import { gap, type Leads } from './identity.js'
import type { ForeignRowError } from './source/foreign-row.js'

/** Throws an OutriderError unless the configuration names the table that was set up: rows of another one are not decoded. */
export function requireConfiguredTable({ table }: OutboxMapping, { outboxTable, slot }: Lineage): void {
  if (table === outboxTable) return
  throw new OutriderError(
    `outbox.table: expected ${outboxTable}, as slot ${slot} was set up, found ${table}. Nothing is published. ` +
      `If ${outboxTable} was renamed to ${table}, run \`outrider setup\` with this configuration; else configure ${outboxTable}.`,
  )
}

/**
 * Is the published table still the one that the configuration names? The publication follows the table's oid, and
 * applications follow its name: where the two part, rows may be inserted that are never decoded.
 *
 *   name now                     old name              rows                        outcome
 *   another one                  nothing, or a view    all decoded, by the oid     halted, until name and setup agree
 *   another one                  another table         of that one: not decoded    gap `outbox_replaced`
 *   the expected one             itself                all decoded                 published
 *     with INHERITS children                           of those: not decoded       gap `outbox_inherited`
 *     with UNLOGGED or foreign partitions              of those: not decoded       gap `outbox_unlogged`
 *   any, with a lineage that knows no oid              an earlier version may      gap `outbox_renamed`
 *                                                      have skipped them
 */
export async function verifyTable(client: pg.ClientBase, lineage: Lineage, leads?: Leads): Promise<void> {
  const { publication, outboxTable } = lineage
  const found = await readPublishedTable(client, publication, outboxTable)
  if (!found) return
  if (found.children.length > 0) {
    throw await gap(client, lineage, 'outbox_inherited', { table: found.table, children: found.children }, leads)
  }
  if (found.unlogged.length > 0) {
    throw await gap(client, lineage, 'outbox_unlogged', { table: found.table, partitions: found.unlogged }, leads)
  }
  const { outboxOids } = lineage
  if (found.table === outboxTable && outboxOids.length > 0) return
  const detail = { expected: outboxTable, published: found.table, oid: found.oid }
  if (found.table !== outboxTable && found.namesake?.isTable) {
    throw await gap(client, lineage, 'outbox_replaced', { ...detail, replaced_by: found.namesake.oid }, leads)
  }
  // A version that compared names only may have passed over rows while the table was renamed, also if it was renamed back.
  if (outboxOids.length === 0) {
    const view = found.table !== outboxTable && found.namesake && { view: found.namesake.oid }
    throw await gap(client, lineage, 'outbox_renamed', { ...detail, ...view }, leads)
  }
  throw new HaltError(
    'outbox_renamed',
    `Expected the outbox table ${outboxTable}, found that it is named ${found.table} now. Nothing is published; its rows are ` +
      `kept in WAL and none is lost. Either rename it back, and the relay continues; or set outbox.table to ${found.table}, ` +
      'run `outrider setup`, and restart the relay.',
  )
}

/**
 * Does the publication give every row, whatever was accepted before? Looked at when a session starts: while it runs, each
 * change to the publication is a gap of its own.
 */
export async function verifyWhole(client: pg.ClientBase, lineage: Lineage, mapping: OutboxMapping): Promise<void> {
  const omitted = await findOmissions(client, lineage, mapping)
  if (omitted) {
    throw await gap(client, lineage, 'publication_changed', { ...omitted, confirmed: lineage.confirmedLsn })
  }
}

/** Opens the gap for a foreign row, and gives what to throw. */
export const foreignRow = (client: pg.ClientBase, lineage: Lineage, { relation }: ForeignRowError): Promise<Error> =>
  gap(client, lineage, 'outbox_foreign_rows', {
    expected: lineage.outboxTable,
    found: `${relation.schema}.${relation.table}`,
    oid: relation.oid,
  })

/** The tables whose rows are skipped: someone has closed the gap that said so. */
export async function skippedTables(client: pg.ClientBase, lineage: Lineage): Promise<number[]> {
  const { rows } = await client.query<{ oid: number }>(
    `select distinct (detail ->> 'oid')::oid as oid from outrider.incident
     where lineage = $1 and kind = 'gap' and reason = 'outbox_foreign_rows' and closed_at is not null`,
    [lineage.lineage],
  )
  return rows.map(({ oid }) => oid)
}
