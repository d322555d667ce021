import type { OutboxMapping } from '../config/schema.js'
import { COLUMN_COUNT, Column, type RowValues } from '../event/envelope.js'
import { STREAM_NAME, streamKey } from '../event/names.js'
import { partitionOf } from '../event/partition.js'
import { JSON_TYPES, type Relation, readInsert } from '../postgres/pgoutput.js'
import { ForeignRow } from './foreign-row.js'
import { type KeptRow, keepRow } from './kept-row.js'

const NONE_OMITTED: Record<string, number> = {}

/** The table lacks a column that the mapping names. Nothing is skipped: the relay halts until it is mended. */
export class ColumnMissing extends Error {
  override name = 'ColumnMissing'
}

/** Tables by oid, which stays when a table is renamed. */
export interface KnownTables {
  /** What the lineage publishes from, or has published from. */
  ours: readonly number[]
  /** Not the outbox, and somebody has decided that their rows are not published. */
  skipped: readonly number[]
}

/**
 * From a row to its stream. Holds what is known of the table and of the streams; pure otherwise.
 * One row at a time is read into `values`, which the next row overwrites.
 */
export class Router {
  readonly values: RowValues
  readonly #columns: string[]
  readonly #copies: [from: number, to: number][] = []
  readonly #template: (string | number)[]
  readonly #table: string
  readonly #partitions: ReadonlyMap<string, number>
  /** By the oid of each relation that the stream has named: where its columns go; for a table that is not ours, the relation. */
  readonly #slots = new Map<number, Int8Array | Relation>()
  readonly #tables: KnownTables
  /** The outbox' relations whose column for `data` has a type that is JSON. */
  readonly #jsonData = new Set<number>()
  /** Whether the server has checked that the `data` in `values` is JSON. */
  dataIsJson = false
  /** Sizes of the columns of the row in `values` that were too large to be read, by column. */
  #omitted: Record<string, number> = {}

  /** `partitions`: the count for each stream that has any. */
  constructor(
    mapping: OutboxMapping,
    partitions: Readonly<Record<string, number>>,
    tables: KnownTables = { ours: [], skipped: [] },
  ) {
    this.#table = mapping.table
    this.#tables = tables
    this.#partitions = new Map(Object.entries(partitions))
    this.#columns = new Array<string>(COLUMN_COUNT).fill('')
    for (const [name, column] of Object.entries(mapping.columns)) {
      if (column !== undefined) this.#columns[Column[name as keyof typeof Column]] = column
    }
    // One column may serve as several attributes: it is read into the first, and copied to the others.
    this.#columns.forEach((column, to) => {
      const from = this.#columns.indexOf(column)
      if (column !== '' && from < to) this.#copies.push([from, to])
    })
    this.#template = mapping.stream.split(/\{([^}]+)\}/).map((part, i) => {
      if (i % 2 === 0) return part
      const at = this.#columns.indexOf(part)
      return at >= 0 ? at : this.#columns.push(part) - 1
    })
    this.values = new Array(this.#columns.length).fill(null)
  }

  /** Takes a Relation message. Throws `ColumnMissing`. */
  relation(relation: Relation): void {
    // The name as it was when the row was written: the table may have been renamed since, or dropped and made again.
    if (!this.#tables.ours.includes(relation.oid) && `${relation.schema}.${relation.table}` !== this.#table) {
      // A partition is announced, too, while its rows come as the root's.
      this.#slots.set(relation.oid, relation)
      return
    }
    const missing = new Set(this.#columns.filter((name) => name !== '' && !relation.columns.includes(name)))
    if (missing.size > 0) {
      throw new ColumnMissing(
        `Expected the columns ${[...missing].join(', ')} in ${this.#table}, found ${relation.columns.join(', ')}. ` +
          'Bring them back; rows that were written without them need a mapping under "outbox" that leaves them out.',
      )
    }
    const data = relation.types[relation.columns.indexOf(this.#columns[Column.data] as string)]
    if (data !== undefined && JSON_TYPES.includes(data)) this.#jsonData.add(relation.oid)
    else this.#jsonData.delete(relation.oid)
    this.#slots.set(
      relation.oid,
      Int8Array.from(relation.columns, (column) => this.#columns.indexOf(column)),
    )
  }

  /**
   * Reads an inserted row into `values`; false when its table is one to be skipped. With `maxColumnBytes`, larger columns
   * are null in `values`, and `omitted` has their sizes. Throws `ForeignRow`.
   */
  read(message: Buffer, oid: number, maxColumnBytes?: number): boolean {
    const slots = this.#slots.get(oid)
    if (slots === undefined) throw new Error(`Expected a Relation message before the rows of table ${oid}, found none.`)
    if (!(slots instanceof Int8Array)) {
      if (this.#tables.skipped.includes(oid)) return false
      throw new ForeignRow(slots)
    }
    this.dataIsJson = this.#jsonData.has(oid)
    this.#omitted = NONE_OMITTED
    if (maxColumnBytes === undefined) readInsert(message, slots, this.values)
    else {
      const omitted: Record<string, number> = {}
      readInsert(message, slots, this.values, maxColumnBytes, (slot, bytes) => {
        omitted[this.#columns[slot] as string] = bytes
      })
      this.#omitted = omitted
    }
    for (const [from, to] of this.#copies) this.values[to] = this.values[from] ?? null
    return true
  }

  /** The key of the stream for the row in `values`; undefined when its name is not one that a stream may bear. */
  key(): string | undefined {
    const stream = this.stream()
    if (stream === undefined || !STREAM_NAME.test(stream)) return undefined
    const count = this.#partitions.get(stream)
    if (count === undefined) return stream
    return streamKey(stream, partitionOf(this.values[Column.subject] ?? this.values[Column.id] ?? '', count))
  }

  /** The stream that the row in `values` names; undefined when a column of the template is null. */
  stream(): string | undefined {
    let name = ''
    for (const part of this.#template) {
      const text = typeof part === 'string' ? part : this.values[part]
      if (text == null) return undefined
      name += text
    }
    return name
  }

  /** The row in `values` by the table's column names, without the columns that were not read: for its incident. */
  content(): KeptRow {
    const row: Record<string, string | null> = {}
    this.#columns.forEach((column, i) => {
      if (column !== '' && !(column in this.#omitted)) row[column] ??= this.values[i] ?? null
    })
    return keepRow(row, this.#omitted)
  }
}
