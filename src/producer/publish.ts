import type { EventDefinition } from '../event/define.js'
import { EventError } from '../event/error.js'
import { bytesOf, checkedRow, type EventInput, type OutboxRow } from './row.js'
import { queryOf, type Transaction } from './transaction.js'

/**
 * Inserts an event into `outrider.outbox` in the caller's transaction. If the transaction commits, the relay publishes
 * the event. Returns the id of the event.
 *
 *     await publish(tx, OrderPlaced, { subject: 'order-42', data: { total: 99 } })
 *
 * An array of inputs becomes one INSERT of at most 64 MiB, in the order of the array. If one event is refused, none is
 * inserted. Returns the ids in the same order.
 *
 * `tx` is a `pg` client between BEGIN and COMMIT, the transaction of Drizzle, Kysely, Knex or TypeORM (its manager or its
 * QueryRunner), or `{ query(text, values) }` for another library. Throws a TransactionError for a pool or a database: they are not an open transaction.
 *
 * `data` is stored as JSON.stringify writes it. The schema validates the parsed JSON, as it does in consumers: a Date is
 * a string there, so `z.date()` refuses it. The outbox stores the input of the schema, not its output: transforms,
 * defaults and the removal of unknown keys take effect in the consumer. `undefined` means no payload. Throws an
 * EventError if the event does not fit its schema or a limit. Nothing was sent to Postgres then, and the transaction can
 * continue.
 *
 * Needs the role `outrider_writer` and nothing else.
 */
export async function publish<Event extends EventDefinition>(
  tx: Transaction,
  event: Event,
  input: EventInput<Event>,
): Promise<string>
export async function publish<Event extends EventDefinition>(
  tx: Transaction,
  event: Event,
  inputs: readonly EventInput<Event>[],
): Promise<string[]>
export async function publish(
  tx: Transaction,
  event: EventDefinition,
  input: EventInput<EventDefinition> | readonly EventInput<EventDefinition>[],
): Promise<string | string[]> {
  const query = queryOf(tx)
  const inputs = isArray(input) ? input : [input]
  const rows: OutboxRow[] = []
  // No await but for an async schema: the insert is then on its way before a COMMIT that follows, even where the caller
  // forgot to await (Knex alone sends it later, and rejects). One after another, so that the first event that does not fit is the one reported.
  for (const [index, each] of inputs.entries()) {
    const row = checkedRow(event, each, isArray(input) ? index : undefined)
    rows.push(row instanceof Promise ? await row : row)
  }
  if (rows.length > 0) await query(INSERT, [recordSet(event, rows)])
  const ids = rows.map((row) => row.id)
  return isArray(input) ? ids : ids[0]!
}

/**
 * The rows are one text parameter: it means the same through every driver, where arrays and JSON do not, and is one
 * INSERT for any number of rows. `->>` within gives the payload's text back as it was. The default of `seq` counts the
 * rows above the sort, so their order is the array's.
 */
const INSERT = `
insert into outrider.outbox
  (id, stream, type, subject, data, schema_version, correlation_id, causation_id, headers, created_at)
select
  id, stream, type, subject, data::json, schema_version, correlation_id, causation_id, headers::json,
  coalesce(created_at, clock_timestamp())
from rows from (
  json_to_recordset($1::text::json) as (
    id uuid, stream text, type text, subject text, data text, schema_version integer, correlation_id text,
    causation_id text, headers text, created_at timestamptz
  )
) with ordinality
order by ordinality`

/** In one INSERT: Postgres holds such a text several times over while it takes it apart. */
const MAX_CALL_BYTES = 64 * 1_048_576

function recordSet(event: EventDefinition, rows: OutboxRow[]): string {
  const bytes = rows.reduce((sum, row) => sum + bytesOf(row), 0)
  if (bytes <= MAX_CALL_BYTES) return JSON.stringify(rows.map(toRecord))
  throw new EventError(
    `These ${rows.length} events of type ${event.type} cannot be stored in one INSERT`,
    [{ message: `Expected at most ${MAX_CALL_BYTES} bytes in all, found ${bytes}` }],
    'Nothing was sent to Postgres. Publish the array in parts, within the same transaction.',
  )
}

const toRecord = (row: OutboxRow) => ({
  ...row,
  data: row.data && String(row.data),
  headers: JSON.stringify(row.headers),
})

// Array.isArray does not narrow readonly arrays.
const isArray = <Item>(value: Item | readonly Item[]): value is readonly Item[] => Array.isArray(value)
