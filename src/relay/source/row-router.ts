import type { OutboxMapping } from '../../config/schema.js'
import { COLUMN_COUNT, Column } from '../../event/envelope.js'
import { partitionOf } from '../../event/partition.js'
import { type RowColumns, textOf } from '../../event/sink.js'
import { JSON_TYPES, locateInsert, NULL_AT, type Relation } from '../../postgres/replication/pgoutput.js'
import { ForeignRowError } from './foreign-row.js'
import { type KeptRow, keepRow } from './kept-row.js'
import { type NamedStream, StreamNames } from './stream-names.js'

const NOTHING = Buffer.alloc(0)
const NONE_OMITTED: Record<string, number> = {}

/** A row was written without a column that the mapping names. Nothing is skipped: the relay halts until the mapping fits. */
export class ColumnMissingError extends Error {
  override name = 'ColumnMissingError'
}

/** Tables by oid, which stays when a table is renamed. */
export interface KnownTables {
  /** What the lineage publishes from, or has published from. */
  ours: readonly number[]
  /** Not the outbox, and an operator has decided that their rows are not published. */
  skipped: readonly number[]
}

/**
 * From a row to its stream. Holds what is known of the table and of the streams; pure otherwise.
 * One row at a time is located, and the next one takes its place: its columns are read in the message where they lie.
 */
export class RowRouter implements RowColumns {
  data: Buffer = NOTHING
  readonly starts: Int32Array
  readonly ends: Int32Array
  readonly #columns: string[]
  readonly #copies: [from: number, to: number][] = []
  readonly #template: (string | number)[]
  readonly #table: string
  readonly #names: StreamNames
  /** Columns that a row may lack. */
  readonly #optional: readonly string[]
  /** The column that is the stream's name as it is; undefined where the name is put together. */
  readonly #nameAt: number | undefined
  /** By the oid of each relation that the stream has named: where its columns go; for a table that is not ours, the relation. */
  readonly #slots = new Map<number, Int8Array | Relation>()
  readonly #tables: KnownTables
  /** The outbox' relations whose column for `data` has a type that is JSON. */
  readonly #jsonData = new Set<number>()
  /** Whether the server has checked that the row's `data` is JSON. */
  dataIsJson = false
  /** Sizes of the columns of the row that are too large to be read, by column. */
  #omitted: Record<string, number> = {}

  /** `partitions`: the count for each stream that has any; `more`: further columns to be located, where a row has them. */
  constructor(
    mapping: OutboxMapping,
    partitions: Readonly<Record<string, number>>,
    tables: KnownTables = { ours: [], skipped: [] },
    more: readonly string[] = [],
  ) {
    this.#table = mapping.table
    this.#optional = more
    this.#tables = tables
    this.#names = new StreamNames(new Map(Object.entries(partitions)))
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
    for (const column of more) if (!this.#columns.includes(column)) this.#columns.push(column)
    const [before, at, after] = this.#template
    if (this.#template.length === 3 && before === '' && after === '') this.#nameAt = at as number
    this.starts = new Int32Array(this.#columns.length).fill(NULL_AT)
    this.ends = new Int32Array(this.#columns.length)
  }

  /** Takes a Relation message. Throws `ColumnMissingError`. */
  relation(relation: Relation): void {
    // The name as it was when the row was written: the table may have been renamed since, or dropped and made again.
    if (!this.#tables.ours.includes(relation.oid) && `${relation.schema}.${relation.table}` !== this.#table) {
      // A partition is announced, too, while its rows come as the root's.
      this.#slots.set(relation.oid, relation)
      return
    }
    const missing = new Set(
      this.#columns.filter((name) => name !== '' && !relation.columns.includes(name) && !this.#optional.includes(name)),
    )
    if (missing.size > 0) {
      throw new ColumnMissingError(
        `Expected the columns ${[...missing].join(', ')} in ${this.#table}, found ${relation.columns.join(', ')}. ` +
          'These rows were written without them, and need a mapping under "outbox" that leaves them out.',
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
   * Locates an inserted row, whose message is the bytes of `data` from `start` to `end`; false when its table is one to be
   * skipped. With `maxColumnBytes`, larger columns are null, and `content` has their sizes. Throws `ForeignRowError`.
   */
  read(data: Buffer, oid: number, maxColumnBytes?: number, start = 0, end = data.length): boolean {
    const slots = this.#slots.get(oid)
    if (slots === undefined) throw new Error(`Expected a Relation message before the rows of table ${oid}, found none.`)
    if (!(slots instanceof Int8Array)) {
      if (this.#tables.skipped.includes(oid)) return false
      throw new ForeignRowError(slots)
    }
    this.dataIsJson = this.#jsonData.has(oid)
    this.#omitted = NONE_OMITTED
    this.data = data
    locateInsert(data, start, end, slots, this.starts, this.ends)
    if (maxColumnBytes !== undefined) this.#omit(slots, maxColumnBytes)
    for (const [from, to] of this.#copies) {
      this.starts[to] = this.starts[from] as number
      this.ends[to] = this.ends[from] as number
    }
    return true
  }

  #omit(slots: Int8Array, maxBytes: number): void {
    const omitted: Record<string, number> = {}
    for (const slot of slots) {
      if (slot < 0 || (this.starts[slot] as number) < 0) continue
      const bytes = (this.ends[slot] as number) - (this.starts[slot] as number)
      if (bytes <= maxBytes) continue
      omitted[this.#columns[slot] as string] = bytes
      this.starts[slot] = NULL_AT
    }
    this.#omitted = omitted
  }

  /** The column of each place, in order; empty where the mapping names none. */
  get columns(): readonly string[] {
    return this.#columns
  }

  /** Takes a row that was read by a query, as `read` takes one from a message: each column's text, in the order of `columns`. */
  take(row: readonly (string | null)[]): void {
    this.data = Buffer.from(row.join(''))
    let at = 0
    for (let i = 0; i < this.#columns.length; i++) {
      const text = row[i] ?? null
      this.starts[i] = text === null ? NULL_AT : at
      if (text !== null) at += Buffer.byteLength(text)
      this.ends[i] = at
    }
  }

  /** The message of the row is used again by someone else: nothing of it is read any more. */
  forget(): void {
    this.data = NOTHING
  }

  /** Where a column of the table stands, for `text`; negative where it is not located. */
  indexOf(column: string): number {
    return this.#columns.indexOf(column)
  }

  /** A column of the row as text. */
  text(column: number): string | null {
    return textOf(this, column)
  }

  /** The bytes of the row's column for `data`. */
  get dataBytes(): number {
    const start = this.starts[Column.data] as number
    return start < 0 ? 0 : (this.ends[Column.data] as number) - start
  }

  /** The key of the row's stream; undefined when its name is not one that a stream may bear. */
  key(): string | undefined {
    const named = this.#named()
    if (named === undefined) return undefined
    return named.partitions === 0 ? named.keys[0] : named.keys[partitionOf(this.#partitionBytes(), named.partitions)]
  }

  #named(): NamedStream | undefined {
    if (this.#nameAt === undefined) {
      const name = this.stream()
      return name === undefined ? undefined : this.#names.named(name)
    }
    const start = this.starts[this.#nameAt] as number
    return start < 0 ? undefined : this.#names.find(this.data, start, this.ends[this.#nameAt] as number)
  }

  #partitionBytes(): Buffer {
    const column = (this.starts[Column.subject] as number) < 0 ? Column.id : Column.subject
    const start = this.starts[column] as number
    return this.data.subarray(Math.max(start, 0), start < 0 ? 0 : this.ends[column])
  }

  /** The stream that the row names; undefined when a column of the template is null. */
  stream(): string | undefined {
    let name = ''
    for (const part of this.#template) {
      const text = typeof part === 'string' ? part : this.text(part)
      if (text == null) return undefined
      name += text
    }
    return name
  }

  /** The row by the table's column names, without the columns that were not read: for its incident. */
  content(): KeptRow {
    const row: Record<string, string | null> = {}
    this.#columns.forEach((column, i) => {
      if (column !== '' && !(column in this.#omitted)) row[column] ??= this.text(i)
    })
    return keepRow(row, this.#omitted)
  }
}
