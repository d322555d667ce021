import { EventEmitter, once } from 'node:events'
import type { Head } from '../../event/head.js'
import type { Position } from '../../event/position.js'

/** Rows of a request that are appended, and not known to be durable yet. */
interface AppendedPage {
  /** The `seq` of its last row. */
  through: bigint
  rows: number
  rejected: number
  /** Of each of its streams: the last entry at that time, behind which all later rows are. */
  entries: ReadonlyMap<string, string>
  /** Streams whose saved head is before this position. */
  unsaved: Map<string, Position>
}

/** What has become durable. */
export type DurablePages = Pick<AppendedPage, 'through' | 'rows' | 'rejected' | 'entries'>

/** Pages of a request in the order of their rows: what is durable is taken from the beginning. Positions are compared as text. */
export class AppendedPages {
  readonly #pages: AppendedPage[] = []
  readonly #emitter = new EventEmitter()

  /** Pages that are not durable. */
  get size(): number {
    return this.#pages.length
  }

  add(page: Omit<AppendedPage, 'entries' | 'unsaved'>, heads: ReadonlyMap<string, Head>): void {
    this.#pages.push({
      ...page,
      entries: new Map(Array.from(heads, ([key, { entry }]) => [key, entry])),
      unsaved: new Map(Array.from(heads, ([key, { position }]) => [key, position])),
    })
  }

  /** These heads are durable, and saved. */
  saved(heads: ReadonlyMap<string, Head>): void {
    for (const { unsaved } of this.#pages) {
      for (const [key, position] of unsaved) {
        const head = heads.get(key)
        if (head && head.position >= position) unsaved.delete(key)
      }
    }
    this.#emitter.emit('saved')
  }

  /**
   * Calls `save` with what is durable, and waits for more until no more than `max` pages are left. False: `save` said so. Rejects when
   * the signal aborts.
   */
  async drain(max: number, save: (durable: DurablePages) => Promise<boolean>, signal: AbortSignal): Promise<boolean> {
    for (;;) {
      const durable = this.takeDurable()
      if (durable) {
        if (!(await save(durable))) return false
      } else if (this.size <= max) return true
      else await once(this.#emitter, 'saved', { signal })
    }
  }

  /** Undefined: nothing is, that was not taken before. */
  takeDurable(): DurablePages | undefined {
    const first = this.#pages.findIndex(({ unsaved }) => unsaved.size > 0)
    const pages = this.#pages.splice(0, first < 0 ? this.#pages.length : first)
    const last = pages.at(-1)
    if (!last) return undefined
    return {
      through: last.through,
      rows: pages.reduce((sum, { rows }) => sum + rows, 0),
      rejected: pages.reduce((sum, { rejected }) => sum + rejected, 0),
      entries: new Map(pages.flatMap(({ entries }) => [...entries])),
    }
  }
}
