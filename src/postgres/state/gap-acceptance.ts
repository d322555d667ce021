import type pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import type { OutboxMapping } from '../../config/schema.js'
import { serverVersion } from '../client/server.js'
import { endInheritance, readPublishedTable, recordPublishedTable } from '../outbox/published-table.js'
import { parseTable, quoteTableName } from '../outbox/table-name.js'
import { describeUnlogged, endUnlogged } from '../outbox/unlogged-partitions.js'
import { dropFromPublication, findOmissions, replacePublication } from '../replication/publication.js'
import { renameBack } from '../setup/rename-back.js'
import { acceptHeads } from './heads.js'
import { REPAIRABLE } from './incident-reasons.js'
import type { Lineage } from './lineage.js'
import { canClosePublication, childrenIn } from './remedy.js'

/** An incident of kind `gap`. */
interface Gap {
  id: string
  lineage: string
  reason: string
  stream: string | null
  detail: object
  repairedAt: Date | null
}

/**
 * Each gap is held open by something that was saved; accepting the loss is to release exactly that. One that was repaired
 * is held open by transactions alone: what is saved is as the repair has left it, and closing no longer awaits them.
 */
export async function acceptGap(client: pg.ClientBase, incident: Gap, mapping?: OutboxMapping): Promise<void> {
  if (incident.repairedAt === null) await acceptLoss(client, incident, mapping)
  await endRepair(client, incident)
}

/** Without a gap to repair, no row may be left out because it was to be put back, and nothing is awaited. */
async function endRepair(client: pg.ClientBase, { id, lineage }: Gap): Promise<void> {
  await client.query(
    `delete from outrider.repair as r where lineage = $1 and not exists (
       select from outrider.incident as i
       where i.lineage = r.lineage and kind = 'gap' and closed_at is null and i.id <> $2 and reason = any ($3)
     )`,
    [lineage, id, [...REPAIRABLE]],
  )
}

async function acceptLoss(client: pg.ClientBase, incident: Gap, mapping: OutboxMapping | undefined): Promise<void> {
  const { id, lineage, reason, stream } = incident
  switch (reason) {
    case 'stream_behind':
      // An earlier version named its one stream in the incident.
      return acceptHeads(
        client,
        lineage,
        'stream_key = $2 or stream_key in (select stream_key from outrider.gap_stream where incident = $3)',
        [stream, id],
      )
    case 'publication_missing':
      await requireDecodable(client, incident)
      await acceptPublication(client, incident, mapping)
      return acceptCutOff(client, incident)
    case 'publication_changed':
      await acceptPublication(client, incident, mapping)
      return acceptCutOff(client, incident)
    case 'slot_ahead':
    case 'slot_missing':
    case 'slot_lost':
      await acceptSlot(client, incident)
      return acceptCutOff(client, incident)
    case 'outbox_renamed':
      return recordPublishedTable(client, lineage)
    case 'outbox_replaced':
      return acceptReplaced(client, lineage, id)
    case 'outbox_inherited':
      return acceptInheritance(client, incident)
    case 'outbox_unlogged':
      return requireLogged(client, lineage, id)
    case 'outbox_foreign_rows':
      // The closed incident itself is what lets the relay skip them.
      return
    default:
      throw new OutriderError(
        `Incident ${id} (${reason}) cannot be closed by this version of Outrider, which does not know the reason. ` +
          '`outrider adopt` starts a new lineage and says which events it leaves out.',
      )
  }
}

/**
 * A repair may have moved the heads of these streams and put back a part of what they lack. Where another gap of slot or publication is
 * open, its repair continues with them.
 */
async function acceptCutOff(client: pg.ClientBase, { id, lineage }: Gap): Promise<void> {
  await client.query(
    `update outrider.gap_stream set incident = other.id
     from (select min(i.id) as id from outrider.incident as i
           where lineage = $1 and kind = 'gap' and closed_at is null and repaired_at is null and i.id <> $2
             and reason <> 'stream_behind' and reason = any ($3)) as other
     where incident = $2 and other.id is not null
       and not exists (select from outrider.gap_stream as g where g.incident = other.id and g.stream_key = gap_stream.stream_key)`,
    [lineage, id, [...REPAIRABLE]],
  )
  await acceptHeads(
    client,
    lineage,
    `exists (select from outrider.repair as r where r.lineage = head.lineage and attempts > 0)
     and stream_key in (select stream_key from outrider.gap_stream where incident = $2)
     and stream_key not in (
       select stream_key from outrider.gap_stream as g join outrider.incident as i on i.id = incident
       where i.lineage = $1 and closed_at is null and i.id <> $2)`,
    [id],
  )
}

async function requireDecodable(client: pg.ClientBase, { id, detail }: Gap): Promise<void> {
  const version = await serverVersion(client)
  if (canClosePublication(version, detail)) return
  throw new OutriderError(
    `Incident ${id} cannot be closed on PostgreSQL ${Math.floor(version / 10_000)}: it cannot decode what was written while the ` +
      'publication was missing, and the slot cannot pass it. A repair creates a new slot and puts back what it missed: ' +
      `\`outrider incidents show ${id}\` has the next step. ` +
      'Otherwise `outrider adopt` starts a new lineage and says which events it leaves out.',
  )
}

/** As it is now, provided that it publishes every row of the table: what it passed over later would not be seen. */
async function acceptPublication(
  client: pg.ClientBase,
  { id, lineage }: Gap,
  mapping: OutboxMapping | undefined,
): Promise<void> {
  const omitted = await findOmissions(client, await readNames(client, lineage), mapping)
  if (omitted) {
    const { publication, table, omissions } = omitted
    const replace = replacePublication(publication, parseTable(table)).replaceAll('\n', ' ')
    throw new OutriderError(
      `Incident ${id} cannot be closed: expected publication ${publication} to publish the rows of ${table}, found ` +
        `that it ${omissions.join(' and ')}. Replace it: \`${replace}\`; ` +
        'then close this. Rows that were inserted meanwhile are not published: insert them again.',
    )
  }
  const { rowCount } = await client.query(
    `update outrider.lineage set publication_state = outrider.publication_state(publication)
     where lineage = $1 and outrider.publication_state(publication) is not null`,
    [lineage],
  )
  if (rowCount === 0) {
    throw new OutriderError(
      `Incident ${id} cannot be closed while the publication is missing. \`outrider setup\` creates it again; then close this.`,
    )
  }
  await recordPublishedTable(client, lineage)
}

/** As it is now: after a repair that created it again, too. Nothing that is confirmed is confirmed less. */
async function acceptSlot(client: pg.ClientBase, { id, lineage, reason }: Gap): Promise<void> {
  const { rowCount } = await client.query(
    `update outrider.lineage set confirmed_lsn = greatest(confirmed_lsn, slot.confirmed_flush_lsn)
     from pg_replication_slots as slot
     where lineage = $1 and slot_name = lineage.slot and slot.database = current_database()
       and slot.wal_status <> 'lost'`,
    [lineage],
  )
  if (rowCount === 0) {
    throw new OutriderError(
      `Incident ${id} (${reason}) cannot be closed: the slot that this lineage depends on is missing or lost. A repair creates a ` +
        `new one and puts back what it missed, as far as the table has it: \`outrider incidents show ${id}\` has the next step. ` +
        'Otherwise `outrider adopt` starts a new lineage and says which events it leaves out.',
    )
  }
}

async function acceptReplaced(client: pg.ClientBase, lineage: string, id: string): Promise<void> {
  const { outboxTable, publication, found } = await publishedBy(client, lineage)
  if (found?.table === outboxTable) return recordPublishedTable(client, lineage)
  const name = client.escapeIdentifier(publication)
  const back =
    found && renameBack({ expected: outboxTable, published: found.table, namesake: found.namesake && 'table' })
  throw new OutriderError(
    `Incident ${id} cannot be closed while publication ${publication} publishes ${found?.table ?? 'no table'} and another table ` +
      `is named ${outboxTable}. ${back ? `Rename both back: \`${back.replaceAll('\n', ' ')}\`. ` : ''}` +
      `Or, to publish from the other table from now on: \`${publishOther(name, quoteTableName(outboxTable))}\`. ` +
      'Rows that it has then are not published: insert them again.',
  )
}

/**
 * The lock waits for writers. Postgres decides for each row by the publication as it was when the row was written: of a transaction that
 * is open meanwhile it would publish the later rows alone, and the earlier ones would not be in the table yet.
 */
const publishOther = (publication: string, table: string) =>
  `begin; lock table ${table} in share row exclusive mode; alter publication ${publication} set table ${table}; commit`

async function acceptInheritance(client: pg.ClientBase, { id, lineage, detail }: Gap): Promise<void> {
  const { publication, outboxTable, found } = await publishedBy(client, lineage)
  if (!found?.children.length) return unpublish(client, { lineage, publication, children: childrenIn(detail) })
  throw new OutriderError(
    `Incident ${id} cannot be closed while ${found.children.join(', ')} inherits from ${outboxTable}: ` +
      `\`${endInheritance(found.table, found.children)}\`. ` +
      'Rows that are in it are not published: insert them into the outbox table.',
  )
}

/**
 * Takes tables that were children when the publication was created out of it, and what inherits from them: else each of their
 * rows would halt the relay.
 * What is decoded of the outbox table is the same, so a publication that was whole is whole after it.
 */
async function unpublish(
  client: pg.ClientBase,
  { lineage, publication, children }: { lineage: string; publication: string; children: string[] },
): Promise<void> {
  const { rows } = await client.query<{ table: string; whole: boolean }>(
    `with recursive descendant (oid) as (
       select c.oid from pg_class as c join pg_namespace as n on n.oid = relnamespace
       where nspname::text || '.' || relname::text = any ($2)
       union
       select inhrelid from descendant join pg_inherits on inhparent = descendant.oid
     )
     select nspname::text || '.' || relname::text as table, publication_state = outrider.publication_state(publication) as whole
     from outrider.lineage join pg_publication as p on pubname = publication
       join pg_publication_rel on prpubid = p.oid join pg_class as c on c.oid = prrelid
       join pg_namespace as n on n.oid = relnamespace
     where lineage = $1 and c.oid in (select oid from descendant)`,
    [lineage, children],
  )
  if (rows.length === 0) return
  await client.query(
    dropFromPublication(
      publication,
      rows.map(({ table }) => table),
    ),
  )
  if (!rows[0]!.whole) return
  await client.query(
    'update outrider.lineage set publication_state = outrider.publication_state(publication) where lineage = $1',
    [lineage],
  )
}

async function requireLogged(client: pg.ClientBase, lineage: string, id: string): Promise<void> {
  const { outboxTable, found } = await publishedBy(client, lineage)
  if (!found?.unlogged.length) return
  throw new OutriderError(
    `Incident ${id} cannot be closed while rows of ${outboxTable} never reach the WAL in ${describeUnlogged(found.unlogged)}: ` +
      `\`${endUnlogged(found.unlogged).replaceAll('\n', ' ')}\`. ` +
      'Rows that were inserted into them meanwhile are not published: insert them again afterwards.',
  )
}

async function publishedBy(client: pg.ClientBase, lineage: string) {
  const { publication, outboxTable } = await readNames(client, lineage)
  return { publication, outboxTable, found: await readPublishedTable(client, publication, outboxTable) }
}

async function readNames(client: pg.ClientBase, lineage: string) {
  const { rows } = await client.query<Pick<Lineage, 'publication' | 'outboxTable' | 'outboxOids'>>(
    `select publication, outbox_table as "outboxTable", outbox_oids as "outboxOids" from outrider.lineage where lineage = $1`,
    [lineage],
  )
  return rows[0]!
}
