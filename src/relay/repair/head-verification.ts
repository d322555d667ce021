import type pg from 'pg'
import { pause } from '../../base/backoff.js'
import type { Config } from '../../config/schema.js'
import { ZERO_POSITION } from '../../event/position.js'
import { openGaps } from '../../postgres/state/gaps.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import { addressHash } from '../../redis/client/address.js'
import { requirePrimary } from '../../redis/client/primary.js'
import type { HeadLook } from '../sink/head-ownership.js'
import { type HeadTakeover, throwRefusals } from '../sink/head-takeover.js'
import { LossError } from '../sink/loss.js'
import { requireSameRedis } from './guards.js'
import type { PutBack } from './put-back.js'

/** One look proves no loss: see HeadTakeover. */
const LOOK_AGAIN_MS = 3_000

export interface HeadVerificationOptions {
  config: Config
  lineage: Lineage
  client: pg.Client
  putBack: PutBack
  takeover: HeadTakeover
  /** Aborted when the session ends. */
  signal: AbortSignal
}

/** Looks at every saved head before a repair changes anything. */
export class HeadVerification {
  readonly #options: HeadVerificationOptions

  constructor(options: HeadVerificationOptions) {
    this.#options = options
  }

  /** Rejects where another database wrote a head. Streams that Redis has lost beside the known ones are recorded. */
  async verify(): Promise<void> {
    const { putBack, signal, takeover } = this.#options
    let client = await putBack.connected()
    let { lost } = await takeover.survey(client)
    throwRefusals(lost)
    if (lost.length > 0 && !(await this.#areRecorded(lost))) {
      await requirePrimary(client)
      await pause(LOOK_AGAIN_MS, signal)
      signal.throwIfAborted()
      putBack.publisher.broken(client, 'Redis seems to have lost events: looking again.', 'redis_behind')
      client = await putBack.connected()
      lost = (await takeover.survey(client)).lost
      throwRefusals(lost)
      const error = lost.length > 0 ? await takeover.recordLosses(client, lost) : undefined
      if (error instanceof LossError) throw error
    }
    await this.#verifyAddress(lost)
  }

  async #areRecorded(lost: readonly HeadLook[]): Promise<boolean> {
    const { rows } = await this.#options.client.query<{ count: number }>(
      `select count(distinct stream_key)::float8 as count from outrider.gap_stream join outrider.incident as i on i.id = incident
       where lineage = $1 and closed_at is null and repaired_at is null and stream_key = any ($2)`,
      [this.#options.lineage.lineage, lost.map(({ key }) => key)],
    )
    return rows[0]?.count === lost.length
  }

  /** Nothing at all is there, at an address that is new. */
  async #verifyAddress(lost: readonly HeadLook[]): Promise<void> {
    const { config, lineage } = this.#options
    const gaps = await openGaps(this.#options.client, lineage.lineage)
    if (lost.length === 0 || gaps.some(({ repairMax }) => repairMax !== undefined)) return
    if (lost.some(({ reply }) => reply.head.position !== ZERO_POSITION)) return
    const { rows } = await this.#options.client.query<{ redis: string | null; heads: number }>(
      `select redis, (select count(*) from outrider.head as h where h.lineage = l.lineage)::float8 as heads
       from outrider.lineage as l where lineage = $1`,
      [lineage.lineage],
    )
    const [known] = rows
    if (known && known.heads === lost.length) {
      requireSameRedis(known.redis, addressHash(config.redis.url), gaps[0]?.id ?? '')
    }
  }
}
