import pg from 'pg'

/** References that one statement fetches. */
const FETCHED_AT_ONCE = 1_000
/** Bytes of rows that are loaded at once, unless one row has more. */
const LOADED_BYTES = 4 * 1024 * 1024
/** What a row has beside its data, in bytes; counted roughly. */
const OTHER_BYTES = 300

/** SQL: the bytes of the row `o`, roughly. */
export const ROW_SIZE = `coalesce(octet_length(o.data::text), 0) + ${OTHER_BYTES}`

interface Reference {
  bucket: number
  id: string
  size: number
}

/** How many rows, and how many bytes they have. */
export interface RowCount {
  rows: number
  bytes: number
}

/**
 * Rows of Outrider's own table in an order that is worked out once: a cursor holds references alone, and what changes meanwhile does
 * not move it. The rows are loaded in pages.
 */
export class RowReferences {
  readonly #client: pg.Client
  readonly #cursor: string

  /** `client`: a connection of its own. */
  constructor(client: pg.Client, cursor: string) {
    this.#client = client
    this.#cursor = cursor
  }

  /** To be called first: the connection may have been used before, and statistics may not know yet what the statement joins. */
  async prepare(): Promise<void> {
    // Closed with the connection at the latest: a session may try again on it. A nested loop would compare each row with each of the ids.
    await this.#client.query(
      "close all; set work_mem = '64MB'; set jit = off; set max_parallel_workers_per_gather = 0; set enable_nestloop = off",
    )
  }

  /** `select`: gives bucket, id and size, and what `order` names. */
  async declare(select: string, order: string): Promise<RowCount> {
    const cursor = this.#cursor
    await this.#client.query(
      `declare ${cursor} scroll cursor with hold for
       select bucket, id::text, size, row_number() over w as place, sum(size) over w as total
         from (${select}) as ${cursor}
       window w as (order by ${order} rows between unbounded preceding and current row)
        order by ${order}`,
    )
    const { rows } = await this.#client.query<{ place: string; total: string }>(`fetch last from ${cursor}`)
    await this.#client.query(`move absolute 0 from ${cursor}`)
    return { rows: Number(rows[0]?.place ?? 0), bytes: Number(rows[0]?.total ?? 0) }
  }

  async close(): Promise<void> {
    await this.#client.query(`close ${this.#cursor}`)
  }

  /** The rows: what each of `expressions` gives for it, as text. Rows that were deleted since the cursor was declared are left out. */
  async *read(expressions: readonly string[]): AsyncGenerator<(string | null)[][]> {
    const list = expressions.map((expression) => `(${expression})::text`).join(', ')
    for (;;) {
      const { rows } = await this.#client.query<Reference>(`fetch ${FETCHED_AT_ONCE} from ${this.#cursor}`)
      if (rows.length === 0) return
      for (const page of pagesOf(rows)) yield await this.#load(page, list)
    }
  }

  async #load(page: readonly Reference[], list: string): Promise<(string | null)[][]> {
    const loaded = new Map<string, (string | null)[]>()
    for (const bucket of new Set(page.map((reference) => reference.bucket))) {
      const ids = page.filter((reference) => reference.bucket === bucket).map(({ id }) => id)
      const { rows } = await this.#client.query<(string | null)[]>({
        text: `select id::text, ${list} from outrider.outbox where bucket = $1 and id = any ($2::uuid[])`,
        values: [bucket, ids],
        rowMode: 'array',
        types: AS_TEXT,
      })
      for (const [id, ...row] of rows) loaded.set(`${bucket} ${id}`, row)
    }
    return page.map(({ bucket, id }) => loaded.get(`${bucket} ${id}`)).filter((row) => row !== undefined)
  }
}

/** For `read`: these columns; an empty name is a column that is null. */
export const expressionsOf = (columns: readonly string[]): string[] =>
  columns.map((column) => (column === '' ? 'null' : pg.escapeIdentifier(column)))

function* pagesOf(references: readonly Reference[]): Generator<Reference[]> {
  let page: Reference[] = []
  let bytes = 0
  for (const reference of references) {
    if (page.length > 0 && bytes + reference.size > LOADED_BYTES) {
      yield page
      page = []
      bytes = 0
    }
    page.push(reference)
    bytes += reference.size
  }
  if (page.length > 0) yield page
}

const AS_TEXT = { getTypeParser: () => (value: string) => value }
