import type pg from 'pg'
import { Failure } from '../failure.js'
import { endInheritance, readPublishedTable, recordPublishedTable } from './published-table.js'
import { canPassMissingPublication } from './remedy.js'
import { renameBack } from './rename-back.js'
import { serverVersion } from './server.js'
import { quoteTableName } from './table.js'
import { describeUnlogged, endUnlogged } from './unlogged-partitions.js'

/** An incident of kind `gap`. */
interface Gap {
  id: string
  lineage: string
  reason: string
  stream: string | null
  detail: object
}

/** Each gap is held open by something that was saved; accepting the loss is to let go of exactly that. */
export async function acceptGap(client: pg.ClientBase, incident: Gap): Promise<void> {
  const { id, lineage, reason, stream } = incident
  switch (reason) {
    case 'stream_behind':
      await client.query('delete from outrider.head where lineage = $1 and stream_key = $2', [lineage, stream])
      return
    case 'publication_missing':
      await requireDecodable(client, incident)
      return acceptPublication(client, lineage, id)
    case 'publication_changed':
      return acceptPublication(client, lineage, id)
    case 'slot_ahead':
      return acceptSlot(client, lineage, id)
    case 'outbox_renamed':
      return recordPublishedTable(client, lineage)
    case 'outbox_replaced':
      return acceptReplaced(client, lineage, id)
    case 'outbox_inherited':
      return requireNoChildren(client, lineage, id)
    case 'outbox_unlogged':
      return requireLogged(client, lineage, id)
    case 'outbox_foreign_rows':
      // The closed incident itself is what lets the relay skip them.
      return
    default:
      throw new Failure(
        `Incident ${id} (${reason}) cannot be closed: the slot that this lineage depends on is gone, and a new one would ` +
          'not bring back what it missed. `outrider adopt` starts a new lineage and says which events it leaves out.',
      )
  }
}

async function requireDecodable(client: pg.ClientBase, { id, detail }: Gap): Promise<void> {
  const version = await serverVersion(client)
  if (canPassMissingPublication(version, detail)) return
  throw new Failure(
    `Incident ${id} cannot be closed on PostgreSQL ${Math.floor(version / 10_000)}: it cannot decode what was written while the ` +
      'publication was missing, and the slot cannot pass it. `outrider adopt` starts a new lineage and says which events it leaves out.',
  )
}

async function acceptPublication(client: pg.ClientBase, lineage: string, id: string): Promise<void> {
  const { rowCount } = await client.query(
    `update outrider.lineage set publication_state = outrider.publication_state(publication)
     where lineage = $1 and outrider.publication_state(publication) is not null`,
    [lineage],
  )
  if (rowCount === 0) {
    throw new Failure(
      `Incident ${id} cannot be closed while the publication is missing. \`outrider setup\` creates it again; then close this.`,
    )
  }
  await recordPublishedTable(client, lineage)
}

async function acceptSlot(client: pg.ClientBase, lineage: string, id: string): Promise<void> {
  const { rowCount } = await client.query(
    `update outrider.lineage set confirmed_lsn = slot.confirmed_flush_lsn
     from pg_replication_slots as slot
     where lineage = $1 and slot_name = lineage.slot and slot.database = current_database()
       and slot.wal_status <> 'lost'`,
    [lineage],
  )
  if (rowCount === 0) {
    throw new Failure(
      `Incident ${id} cannot be closed: the slot is missing or lost. \`outrider adopt\` starts a new lineage.`,
    )
  }
}

async function acceptReplaced(client: pg.ClientBase, lineage: string, id: string): Promise<void> {
  const { outboxTable, publication, found } = await publishedBy(client, lineage)
  if (found?.table === outboxTable) return recordPublishedTable(client, lineage)
  const name = client.escapeIdentifier(publication)
  const back =
    found && renameBack({ expected: outboxTable, published: found.table, namesake: found.namesake && 'table' })
  throw new Failure(
    `Incident ${id} cannot be closed while publication ${publication} publishes ${found?.table ?? 'no table'} and another table ` +
      `is named ${outboxTable}. ${back ? `Rename both back: \`${back.replaceAll('\n', ' ')}\`. ` : ''}` +
      `Or, to publish from the other table from now on: \`alter publication ${name} ` +
      `set table ${quoteTableName(outboxTable)}\`. Rows that it already has are not published: insert them again.`,
  )
}

async function requireNoChildren(client: pg.ClientBase, lineage: string, id: string): Promise<void> {
  const { outboxTable, found } = await publishedBy(client, lineage)
  if (!found?.children.length) return
  throw new Failure(
    `Incident ${id} cannot be closed while ${found.children.join(', ')} inherits from ${outboxTable}: ` +
      `\`${endInheritance(found.table, found.children)}\`. ` +
      'Rows that are in it are not published: insert them into the outbox table.',
  )
}

async function requireLogged(client: pg.ClientBase, lineage: string, id: string): Promise<void> {
  const { outboxTable, found } = await publishedBy(client, lineage)
  if (!found?.unlogged.length) return
  throw new Failure(
    `Incident ${id} cannot be closed while rows of ${outboxTable} never reach the WAL in ${describeUnlogged(found.unlogged)}: ` +
      `\`${endUnlogged(found.unlogged).replaceAll('\n', ' ')}\`. ` +
      'Rows that were inserted into them meanwhile are not published: insert them again afterwards.',
  )
}

async function publishedBy(client: pg.ClientBase, lineage: string) {
  const { rows } = await client.query<{ publication: string; outbox_table: string }>(
    'select publication, outbox_table from outrider.lineage where lineage = $1',
    [lineage],
  )
  const { publication, outbox_table: outboxTable } = rows[0]!
  return { publication, outboxTable, found: await readPublishedTable(client, publication, outboxTable) }
}
