import pg from 'pg'
import { amongTxids } from '../../postgres/outbox/txid-index.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import type { Repair } from '../../postgres/state/repairs.js'
import { lockLost } from '../../postgres/state/sessions.js'
import { closeRedis, type RedisClient } from '../../redis/client/connect.js'
import { readEventIds } from '../../redis/streams/repair.js'
import type { StateStore } from '../confirm/state-store.js'
import type { RowRouter } from '../source/row-router.js'
import { NOT_REJECTED, withRejected } from './rejected-rows.js'
import type { SettledRows } from './settled-rows.js'

/** The clocks of Postgres and Redis may differ by so much. */
const CLOCK_SKEW_MS = 600_000
/** Rows that are held at once. */
const ROWS_AT_ONCE = 10_000

/** A repair whose last transactions are awaited. */
export interface SettlingRepair extends Repair {
  /** The streams that were repaired; undefined: all of them. */
  streams: ReadonlySet<string> | undefined
}

export interface AwaitedRowsOptions {
  repair: SettlingRepair
  lineage: Lineage
  stateStore: StateStore
  /** Takes rows that are read by a query; used for nothing else. */
  router: RowRouter
  settled: SettledRows
  connectRedis(): Promise<RedisClient>
  /** A connection without a limit to how long a statement runs. */
  connectPostgres(): Promise<pg.Client>
}

/** The rows of the transactions that were open when a repair took its snapshot: looks for them in their streams, by id. */
export class AwaitedRows {
  readonly #options: AwaitedRowsOptions

  constructor(options: AwaitedRowsOptions) {
    this.#options = options
  }

  /**
   * How many rows of these transactions neither came from WAL in this session nor are in their stream. Those of a stream without a saved
   * head count as well: a repair that moved the confirmed LSN past their commit has found no row of the stream, and without a saved head no
   * one would notice that Redis loses it.
   */
  async countMissing(xids: readonly string[], signal: AbortSignal): Promise<number> {
    const { connectPostgres, stateStore } = this.#options
    const postgres = await connectPostgres()
    const breakOff = () => postgres.connection.stream.destroy()
    signal.addEventListener('abort', breakOff, { once: true })
    try {
      // A standby that lags would have none of the rows, and none would be missing.
      if (!(await stateStore.holdsLock(postgres))) throw lockLost()
      let missing = 0
      for await (const wanted of this.#readRows(postgres, xids)) {
        missing += await this.#takeUnsaved(wanted)
        missing += await this.#countAbsent(wanted)
      }
      return missing
    } finally {
      signal.removeEventListener('abort', breakOff)
      breakOff()
    }
  }

  /** Ids of the rows by stream, in pages, but for those that an incident says cannot be published. */
  async *#readRows(postgres: pg.Client, xids: readonly string[]): AsyncGenerator<Map<string, Set<string>>> {
    const { lineage, repair, router, settled } = this.#options
    const columns = router.columns.map((column) =>
      ['id', 'stream', 'subject'].includes(column) ? `${column}::text` : 'null',
    )
    const list = xids.map((xid) => `${pg.escapeLiteral(xid)}::xid8`).join(', ')
    await postgres.query(
      `declare awaited no scroll cursor with hold for
       with ${withRejected(lineage.lineage)}
       select id::text, ${columns.join(', ')} from outrider.outbox as o
       where txid = any (array[${list}]) and ${await amongTxids(postgres, xids)} and ${NOT_REJECTED}`,
    )
    for (;;) {
      const { rows } = await postgres.query<(string | null)[]>({
        text: `fetch ${ROWS_AT_ONCE} from awaited`,
        rowMode: 'array',
      })
      if (rows.length === 0) return
      const wanted = new Map<string, Set<string>>()
      for (const [id, ...row] of rows) {
        router.take(row)
        const key = router.key()
        if (
          key === undefined ||
          id == null ||
          settled.hasArrived(key, id) ||
          (repair.streams && !repair.streams.has(key))
        )
          continue
        wanted.set(key, (wanted.get(key) ?? new Set()).add(id))
      }
      yield wanted
    }
  }

  /** Takes the ids out whose stream has no saved head. Resolves with how many there are. */
  async #takeUnsaved(wanted: Map<string, Set<string>>): Promise<number> {
    const saved = await this.#options.stateStore.savedHeadsOf([...wanted.keys()])
    let unsaved = 0
    for (const [key, ids] of wanted) {
      if (saved.has(key)) continue
      unsaved += ids.size
      wanted.delete(key)
    }
    return unsaved
  }

  /** How many of these ids are in no stream of theirs. */
  async #countAbsent(wanted: ReadonlyMap<string, Set<string>>): Promise<number> {
    if (wanted.size === 0) return 0
    const { connectRedis, lineage, repair } = this.#options
    let absent = 0
    const client = await connectRedis()
    try {
      const recent = `${repair.beganAt.getTime() - CLOCK_SKEW_MS}-0`
      for (const [key, ids] of wanted) {
        // Only a commit that waited long for a synchronous standby was published before the repair began.
        for (const first of [recent, '-']) {
          if (ids.size === 0) break
          for await (const page of readEventIds(client, key, lineage.source, first)) {
            for (const id of page) ids.delete(id)
            if (ids.size === 0) break
          }
        }
        absent += ids.size
      }
    } finally {
      closeRedis(client)
    }
    return absent
  }
}
