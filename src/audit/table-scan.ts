import type pg from 'pg'
import type { AuditedRow, OutboxRows, Part, RowFilter } from './rows.js'

/** One reading of the whole table, which may stop in between for the streams. */
export class TableScan {
  readonly #rows: OutboxRows
  readonly #filter: RowFilter
  readonly #take: (row: AuditedRow) => void
  /** Up to when each part was read, in milliseconds, by the times of its rows. */
  readonly #reached = new Map<Part, number>()

  constructor(rows: OutboxRows, parts: readonly Part[], filter: RowFilter, take: (row: AuditedRow) => void) {
    this.#rows = rows
    this.#filter = filter
    this.#take = take
    for (const part of parts) this.#reached.set(part, -Infinity)
  }

  /** Reads on until every part has rows from `time` on, or ends. `page` is called after each page. */
  async readUntil(time: number, page: () => void | Promise<void>): Promise<void> {
    for (const part of this.#reached.keys()) {
      while (part.next < part.blocks && (this.#reached.get(part) as number) < time) {
        let newest = -Infinity
        await this.#rows.read(part, this.#filter, (row) => {
          if (row.time !== undefined && row.time > newest) newest = row.time
          this.#take(row)
        })
        if (newest > -Infinity) this.#reached.set(part, newest)
        await page()
      }
    }
  }
}

/**
 * Runs `work` on one snapshot where rows may be updated meanwhile: an update moves a row to another place, where it would be
 * met twice or never. Rows of Outrider's own table are never updated, so that no snapshot has to be held.
 */
export async function onOneSnapshot<T>(client: pg.Client, needed: boolean, work: () => Promise<T>): Promise<T> {
  if (!needed) return work()
  await client.query('begin isolation level repeatable read read only')
  try {
    return await work()
  } finally {
    await client.query('rollback').catch(() => undefined)
  }
}
