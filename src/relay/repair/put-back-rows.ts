import type pg from 'pg'
import { every } from '../../base/interval.js'
import type { RowCount } from '../../postgres/outbox/row-references.js'
import { type OwnRepair, savePutBack } from '../../postgres/state/repairs.js'
import type { Logger } from '../../telemetry/log.js'
import type { AffectedStreams } from './affected-streams.js'
import type { MissingRows } from './missing-rows.js'
import type { PutBack } from './put-back.js'
import { type PutBackProgress, putBackProgress } from './put-back-progress.js'

const SAVE_PROGRESS_EVERY_MS = 2_000
const LOG_PROGRESS_EVERY_MS = 10_000

export interface PutBackRowsOptions {
  rows: MissingRows
  found: RowCount
  client: pg.Client
  log: Logger
  own: OwnRepair
  putBack: PutBack
  /** Aborted when the session ends. */
  signal: AbortSignal
  report(): void
}

/** Hands the missing rows on to be appended, and records how far that is. */
export class PutBackRows {
  readonly #options: PutBackRowsOptions
  readonly #began = performance.now()
  #skipped = 0

  constructor(options: PutBackRowsOptions) {
    this.#options = options
  }

  get progress(): PutBackProgress {
    const { found, putBack } = this.#options
    return putBackProgress(putBack.appended, found.rows - this.#skipped, performance.now() - this.#began)
  }

  /** Until every row is appended or rejected. */
  async putBack(streams: AffectedStreams): Promise<void> {
    const { client, log, own, putBack, report, signal } = this.#options
    const ended = new AbortController()
    const until = AbortSignal.any([signal, ended.signal])
    every(SAVE_PROGRESS_EVERY_MS, () => report(), until)
    every(LOG_PROGRESS_EVERY_MS, () => log.info(this.progress, 'repair continues'), until)
    try {
      let saved = 0
      for await (const page of this.#options.rows.read(putBack.columns)) {
        for (const row of page) {
          const key = putBack.keyOf(row)
          const refusal = key === undefined ? undefined : streams.refused.reasonOf(key)
          // Of a partition that has lost nothing, or of a stream that is not concerned.
          if (key === undefined || (refusal === undefined && !putBack.isPrepared(key))) this.#skipped += 1
          else if (refusal === undefined) putBack.add(key)
          else putBack.refuse(key, refusal)
        }
        await putBack.room()
        if (performance.now() - saved < SAVE_PROGRESS_EVERY_MS) continue
        saved = performance.now()
        await savePutBack(client, own, putBack.appended)
      }
      await putBack.finish()
    } finally {
      ended.abort()
    }
  }
}
