import { randomUUID } from 'node:crypto'
import { pause } from '../../base/backoff.js'
import type { Database } from '../inbox/database.js'
import type { FencingToken } from '../inbox/inbox.js'
import type { ConsumerLogger } from '../options.js'

/** A stream or partition that this worker holds. */
export interface Lease extends FencingToken {
  /** Where taking over what is pending continues; empty when all of it is taken. */
  from: string
  /** The last entry of the stream when all of it was read, to be told of the next one. */
  last: string
  /** When it was read, by performance.now(). */
  lookedAt: number
  /** There may be something to take. */
  ready: boolean
  /** It is to be given back: nothing more is read or begun. */
  leaving: boolean
}

/** Workers that come and go are noticed within this, in milliseconds. */
const LONGEST_BETWEEN_LOOKS = 2_000

export interface LeaseParts {
  database: Database
  group: string
  /** Milliseconds. */
  ttl: number
  log: ConsumerLogger
  streams(): readonly string[]
  keys(stream: string): readonly string[]
  /** This worker does not hold it any more. */
  onLost(key: string): void
  /** Lets go of all that is held of it; resolves once what runs has finished, or it is not to be given back any more. */
  letGo(key: string, isLeaving: () => boolean): Promise<void>
  /** From here on nothing is taken, and what is held is given back as soon as nothing of it runs. */
  stopping: AbortSignal
  signal: AbortSignal
}

/**
 * Which partitions an ordered worker holds. Postgres decides: sql/004-inbox.sql. A lease that could not be renewed in time
 * stays until someone else has it, because every transaction is checked against the epoch.
 */
export class Leases {
  /** Never the consumer's name: two processes may bear one. */
  readonly #worker = randomUUID()
  readonly #parts: LeaseParts
  readonly #held = new Map<string, Lease>()
  #wake = new AbortController()
  #listeners: (() => void)[] = []

  constructor(parts: LeaseParts) {
    this.#parts = parts
  }

  get(key: string): Lease | undefined {
    return this.#held.get(key)
  }

  all(): readonly Lease[] {
    return [...this.#held.values()]
  }

  /** Resolves at the next change of what is held. */
  changed(): Promise<void> {
    return new Promise((resolve) => this.#listeners.push(resolve))
  }

  async keep(): Promise<void> {
    const { ttl, stopping, log } = this.#parts
    while (!stopping.aborted) {
      for (const stream of this.#parts.streams()) {
        await this.#renew(stream).catch((error) => {
          log.warn({ stream, err: error }, 'leases could not be renewed; they are kept until another worker takes them')
        })
      }
      this.#wake = new AbortController()
      await pause(Math.min(ttl / 3, LONGEST_BETWEEN_LOOKS), AbortSignal.any([stopping, this.#wake.signal]))
    }
    await this.#retire()
  }

  /** While the consumer stops: gives back each partition once nothing of it runs, and renews the others until then. */
  async #retire(): Promise<void> {
    const { ttl, signal, log } = this.#parts
    for (const lease of this.#held.values()) {
      if (lease.leaving) continue
      lease.leaving = true
      void this.#handOver(lease)
    }
    while (!signal.aborted) {
      await this.#extend().catch((error) => {
        log.warn({ err: error }, 'leases could not be renewed; they are kept until another worker takes them')
      })
      await pause(ttl / 3, signal)
    }
  }

  /** Looks again at once: another worker was met. */
  lost(key: string): void {
    if (!this.#held.delete(key)) return
    this.#parts.log.warn({ stream: key }, 'another worker holds this partition now')
    this.#parts.onLost(key)
    this.#tell()
    this.#wake.abort()
  }

  /** Redis has seen a higher epoch than Postgres knows: the database was restored. The holder goes above it. */
  async raise(key: string, above: number): Promise<void> {
    const lease = this.#held.get(key)
    if (!lease) return
    try {
      // Never down: an epoch of another holder must not be the last one again.
      const epoch = await this.#update('epoch = greatest(epoch, $4::text::bigint) + 1', key, String(above))
      if (epoch === undefined) return this.lost(key)
      // Where it was to be given back, the next look begins that again: the one that runs has this lease no more.
      this.#held.set(key, { ...lease, epoch, from: '-', ready: true, leaving: false })
      this.#parts.onLost(key)
    } catch (error) {
      this.#parts.log.warn(
        { stream: key, err: error },
        'the lease could not be raised above the one that Redis has seen',
      )
    }
  }

  /** A reply of Redis may be lost, of one stream or of any: what is pending is taken again; what is held here is recognised. */
  again(key?: string): void {
    for (const lease of this.#held.values()) {
      if (key !== undefined && lease.key !== key) continue
      lease.from = '-'
      lease.ready = true
    }
  }

  /**
   * What is pending of this stream is taken again, from its first entry. A new object, so that the reply to a take that is under way is
   * dropped: its entries are pending, and come in their order.
   */
  retake(key: string): void {
    const lease = this.#held.get(key)
    if (!lease || lease.leaving) return
    this.#held.set(key, { ...lease, from: '-', ready: true })
    this.#tell()
  }

  /** Gives everything back, on leaving. */
  async leave(): Promise<void> {
    this.#held.clear()
    await this.#extend()
  }

  /** Renews what is held and takes nothing: this worker gets no share any more, and the others divide what it frees. */
  async #extend(): Promise<void> {
    const { database, group, ttl } = this.#parts
    const keep = `update outrider.subscription set
        worker = case when stream_key in (select json_array_elements_text($3::text::json)) then worker end,
        expires_at = clock_timestamp() + $4::text::interval
      where consumer_group = $1 and worker = $2 returning stream_key`
    const values = [group, this.#worker]
    await database.query({
      text: keep,
      values: [...values, JSON.stringify([...this.#held.keys()]), `${ttl} milliseconds`],
    })
    const leave = 'delete from outrider.worker where consumer_group = $1 and worker = $2 returning 1 as gone'
    await database.query({ text: leave, values })
  }

  async #renew(stream: string): Promise<void> {
    const { database, group, ttl } = this.#parts
    const keys = this.#parts.keys(stream)
    if (keys.length === 0) return
    const found = await database.query({
      text: 'select * from outrider.renew_leases($1, $2, $3::text::json, $4, $5::text::interval)',
      values: [group, stream, JSON.stringify(keys), this.#worker, `${ttl} milliseconds`],
    })
    // Stopped meanwhile: what was taken is freed with the next statement.
    if (this.#parts.stopping.aborted) return
    const rows = found.map((row) => ({ key: String(row.stream_key), epoch: String(row.epoch) }))
    const epochs = new Map(rows.map(({ key, epoch }) => [key, epoch]))
    for (const key of keys) {
      const held = this.#held.get(key)
      const epoch = epochs.get(key)
      if (held && held.epoch !== epoch) this.lost(key)
      if (epoch === undefined || this.#held.has(key)) continue
      this.#held.set(key, { key, epoch, from: '-', last: '$', lookedAt: 0, ready: true, leaving: false })
      this.#parts.log.info({ stream: key, epoch }, 'this worker holds the partition')
    }
    const target = Number(found[0]?.target ?? 0)
    this.#giveBack(
      rows.slice(target).map(({ key }) => key),
      keys,
    )
    this.#tell()
  }

  /** What is more than this worker's share. */
  #giveBack(surplus: readonly string[], keys: readonly string[]): void {
    for (const lease of this.#held.values()) {
      if (!keys.includes(lease.key)) continue
      const more = surplus.includes(lease.key)
      if (more && !lease.leaving) {
        lease.leaving = true
        void this.#handOver(lease)
      } else if (!more && lease.leaving) {
        // Someone has left meanwhile: it stays after all, and what was released is taken again.
        this.#held.set(lease.key, { ...lease, leaving: false, from: '-', ready: true })
      }
    }
  }

  async #handOver(lease: Lease): Promise<void> {
    try {
      const isLeaving = () => this.#held.get(lease.key) === lease
      await this.#parts.letGo(lease.key, isLeaving)
      if (!isLeaving()) return
      this.#held.delete(lease.key)
      await this.#free(lease)
      this.#parts.log.info({ stream: lease.key }, 'this worker gave the partition back')
    } catch (error) {
      // Still this worker's: the next look finds it among what it holds.
      this.#parts.log.warn({ stream: lease.key, err: error }, 'the partition could not be given back')
    }
    this.#tell()
  }

  #free({ key }: FencingToken): Promise<unknown> {
    return this.#update('worker = null', key)
  }

  /** Where it is still this worker's; its epoch, then. */
  async #update(set: string, key: string, ...values: string[]): Promise<string | undefined> {
    const { database, group } = this.#parts
    const text = `update outrider.subscription set ${set}
      where consumer_group = $1 and stream_key = $2 and worker = $3 returning epoch`
    const [row] = await database.query({ text, values: [group, key, this.#worker, ...values] })
    return row && String(row.epoch)
  }

  #tell(): void {
    const listeners = this.#listeners
    this.#listeners = []
    for (const tell of listeners) tell()
  }
}
