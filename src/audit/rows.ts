import pg from 'pg'
import { type OutboxMapping, OWN_OUTBOX } from '../config/schema.js'
import { Column, Envelope } from '../event/envelope.js'
import { ZERO_POSITION } from '../event/position.js'
import { fieldsOf } from '../event/shape.js'
import type { EventSink } from '../event/sink.js'
import { parseTable, quoteTable } from '../postgres/outbox/table-name.js'
import { fullXid } from '../postgres/state/snapshot.js'
import { RowRouter } from '../relay/source/row-router.js'
import { HASHED, MAX_COMPARED_CHARACTERS } from './digest.js'

/** A row of the outbox as the audit compares it. */
export interface AuditedRow {
  /** The stream's key; the name that the row gives where no stream can bear it. */
  stream: string
  id: string
  /** The full id of the transaction that inserted it; of a mapped table, that wrote it last. */
  xid: bigint
  /** The server has not given such an id yet: the row was copied from another cluster. */
  alien: boolean
  /** When its application says that it was created, in milliseconds; undefined where the table does not tell. */
  time: number | undefined
}

/** A table, or one partition of it, and how far it was read. */
export interface Part {
  oid: string
  /** What all of its rows fulfil, as SQL: lets the server leave out the others. */
  constraint: string
  blocks: number
  next: number
  /** Blocks to read at once. */
  step: number
}

/** The attribute that the audit does not compare. */
const NO_POSITION = Buffer.from(ZERO_POSITION)
const PAGE_ROWS = 2_000
const MAX_STEP = 4_096

/**
 * The rows of the outbox, read by their place in the files of the table: in pages, without an index, without a long
 * snapshot, and whatever became of their partition in between. Reading needs SELECT on the table alone, not on partitions.
 */
export class OutboxRows {
  /** Outrider's own table has the inserting transaction in a column. */
  readonly own: boolean
  readonly #client: pg.Client
  readonly #router: RowRouter
  readonly #envelope: Envelope
  readonly #table: string
  readonly #select: string
  readonly #streamColumn: string | undefined

  constructor(
    client: pg.Client,
    { mapping, source, partitions }: { mapping: OutboxMapping; source: string; partitions: Record<string, number> },
  ) {
    this.own = mapping.table === OWN_OUTBOX.table
    this.#client = client
    this.#router = new RowRouter(mapping, partitions)
    this.#envelope = new Envelope(source)
    this.#table = quoteTable(parseTable(mapping.table))
    const columns = this.#router.columns.map((column) => (column === '' ? 'null' : textOf(column, this.own)))
    const next = '(select pg_snapshot_xmax(pg_current_snapshot())::text)'
    this.#select = [this.own ? 'txid::text' : 'xmin::text', next, ...columns].join(', ')
    const [, column] = /^\{([^{}]+)\}$/.exec(mapping.stream) ?? []
    this.#streamColumn = this.own ? column : undefined
  }

  /** The table's partitions that have rows of their own, as they are now. */
  async parts(): Promise<Part[]> {
    const { rows } = await this.#client.query<{ oid: string; filter: string; blocks: string }>(
      `select relid::oid::text as oid, coalesce(pg_get_partition_constraintdef(relid), 'true') as filter,
         (pg_relation_size(relid) / current_setting('block_size')::int)::text as blocks
       from (select $1::regclass as relid where not exists (select from pg_partition_tree($1::regclass))
             union all select relid from pg_partition_tree($1::regclass) where isleaf) as part
       where exists (select from pg_class where pg_class.oid = relid and relkind = 'r')
       order by relid`,
      [this.#table],
    )
    return rows.map(({ oid, filter, blocks }) => ({
      oid,
      constraint: filter,
      blocks: Number(blocks),
      next: 0,
      step: 16,
    }))
  }

  /** How many rows the table has, roughly: for progress. */
  async estimate(): Promise<number> {
    const { rows } = await this.#client.query<{ count: string }>(
      `select coalesce(sum(greatest(reltuples, 0)), 0)::bigint::text as count from pg_class
       where oid = $1::regclass or oid in (select relid from pg_partition_tree($1::regclass) where isleaf)`,
      [this.#table],
    )
    return Number(rows[0]?.count)
  }

  /** Reads the next page, and gives each row to `take`, which may ask for its fields before the next one comes. */
  async read(part: Part, filter: RowFilter, take: (row: AuditedRow) => void): Promise<void> {
    const end = Math.min(part.blocks, part.next + part.step)
    const conditions = [`(${part.constraint})`, 'tableoid = $1::oid', 'ctid >= $2::tid', 'ctid < $3::tid']
    const values: string[] = [part.oid, `(${part.next},0)`, `(${end},0)`]
    if (filter.notIn !== undefined && this.own) {
      conditions.push(`not pg_visible_in_snapshot(txid, $${values.push(filter.notIn)}::pg_snapshot)`)
    }
    if (filter.stream !== undefined && this.#streamColumn !== undefined) {
      conditions.push(`${pg.escapeIdentifier(this.#streamColumn)} = $${values.push(filter.stream)}`)
    }
    const { rows } = await this.#client.query<(string | null)[]>({
      text: `select ${this.#select} from ${this.#table} where ${conditions.join(' and ')}`,
      values,
      rowMode: 'array',
      types: AS_TEXT,
    })
    const perBlock = rows.length / (end - part.next)
    part.next = end
    part.step = Math.min(MAX_STEP, Math.max(1, Math.floor(PAGE_ROWS / Math.max(perBlock, 0.1))))
    for (const [xid = null, next = null, ...columns] of rows) {
      take(this.#row(BigInt(xid ?? 0), BigInt(next ?? 0), columns))
    }
  }

  #row(xid: bigint, next: bigint, columns: (string | null)[]): AuditedRow {
    this.#router.take(columns)
    return {
      stream: this.#router.key() ?? this.#router.stream() ?? '',
      id: this.#router.text(Column.id) ?? '',
      xid: this.own ? xid : fullXid(xid, next),
      alien: this.own && xid >= next,
      time: millisecondsOf(this.#router.text(Column.time)),
    }
  }

  /** Whether the row that was read last has a time of its own: else its entry bears the time of the commit. */
  get hasTime(): boolean {
    return this.#router.text(Column.time) !== null
  }

  /** The entry that the relay makes of the row that was read last; long values as their hashes. */
  fields(): Record<string, string> | undefined {
    const event: string[] = []
    const sink: EventSink = {
      text: (value) => event.push(value),
      bytes: (data, start, end) => event.push(data.toString('utf8', start, end)),
      shape: (shape) => event.push(shape),
    }
    if (this.#envelope.push(sink, this.#router, NO_POSITION, 0, true) !== undefined) return undefined
    const [position, id, shape, ...values] = event as [string, string, string, ...string[]]
    return fieldsOf(shape, id, position, values)
  }
}

export interface RowFilter {
  /** Leave out what this snapshot sees, where the table has a column for it. */
  notIn?: string | undefined
  /** Leave out other streams, where a column names them. */
  stream?: string | undefined
}

function millisecondsOf(time: string | null): number | undefined {
  if (time === null) return undefined
  const found = Date.parse(`${time.slice(0, 10)}T${time.slice(11, 23).replace(/[+].*$/, '')}Z`)
  return Number.isNaN(found) ? undefined : found
}

/** A value as the relay gets it: what the type's output function writes. A cast writes other text for a few types. */
function textOf(column: string, own: boolean): string {
  const name = pg.escapeIdentifier(column)
  const text = own ? `${name}::text` : `case when ${name} is null then null else format('%s', ${name}) end`
  return (
    `case when char_length(${text}) > ${MAX_COMPARED_CHARACTERS} ` +
    `then '${HASHED}' || encode(sha256(convert_to(${text}, 'UTF8')), 'hex') else ${text} end`
  )
}

const AS_TEXT = { getTypeParser: () => (value: string) => value }
