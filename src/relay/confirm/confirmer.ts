import type { Head } from '../../event/head.js'
import type { Lsn } from '../../postgres/client/lsn.js'
import { DurabilityUnmetError, LEVELS, type Level } from '../../redis/streams/durability.js'

export interface ConfirmOptions {
  /** The configured level, or `auto`: the strongest that a trial shows to work. */
  level: Level | 'auto'
  /** What may be confirmed now, and the heads that moved since they were last taken; undefined when nothing did. */
  take(): Pending | undefined
  tryLevel(level: Level): Promise<void>
  reachDurability(level: Level, heads: ReadonlyMap<string, Head>): Promise<void>
  save(confirmed: Lsn, heads: ReadonlyMap<string, Head>): Promise<void>
  /** Tells the slot. */
  confirm(lsn: Lsn): void
  observe: {
    level(level: Level): void
    waited(milliseconds: number): void
    /** A round failed and comes again, or undefined: it went well. */
    unmet(error: Error | undefined): void
  }
}

export interface Pending {
  lsn: Lsn
  heads: Map<string, Head>
}

interface Taken extends Pending {
  /** When the newest part of it was taken. */
  takenAt: number
}

/** At level `memory`, confirming waits so long, in milliseconds: an ordinary failover of Redis then replays. */
export const MEMORY_DELAY = 5_000
/** How long `auto` holds on to a level that is not met. */
export const LOWER_AFTER = 30_000
/** How often `auto` tries whether a stronger level works. */
export const RAISE_EVERY = 300_000

/**
 * From appended to confirmed, in this order: durable in Redis, saved in Postgres, told to the slot.
 * One round after the other, about once a second while anything moves. Publishing runs ahead and never waits for it.
 */
export class Confirmer {
  readonly #options: ConfirmOptions
  #level: Level | undefined
  #chosenAt = 0
  #unmetSince: number | undefined
  /** The level that was not met for too long, though its trial succeeds: `auto` chooses a weaker one. */
  #unmet: Level | undefined
  /** Taken, not yet confirmed, oldest first. More than one only at level `memory`. */
  readonly #waiting: Taken[] = []
  #confirmed: Lsn

  constructor(options: ConfirmOptions, confirmed: Lsn) {
    this.#options = options
    this.#confirmed = confirmed
  }

  /** What the slot was told last. */
  get confirmed(): Lsn {
    return this.#confirmed
  }

  get level(): Level | undefined {
    return this.#level
  }

  /** Nothing is on its way to be confirmed. */
  get settled(): boolean {
    return this.#waiting.length === 0
  }

  /** One round at time `now`, in milliseconds of a clock that only rises. Rejects only when saving failed. */
  async round(now: number): Promise<void> {
    const taken = this.#options.take()
    if (taken) this.#waiting.push({ ...taken, takenAt: now })
    // Nothing was published since the last barrier: every row up to here was proven by it, and Redis has nothing to add.
    const published = this.#waiting.findIndex(({ heads }) => heads.size > 0)
    const proven = this.#waiting.splice(0, published < 0 ? this.#waiting.length : published).at(-1)
    if (proven) await this.#settle(proven)
    if (this.#waiting.length === 0) return
    try {
      this.#level = await this.#chosen(now)
    } catch (error) {
      this.#options.observe.unmet(error as Error)
      return
    }
    const due = this.#due(this.#level, now)
    if (due === undefined) return
    try {
      const began = performance.now()
      await this.#options.reachDurability(this.#level, due.heads)
      this.#options.observe.waited(performance.now() - began)
      this.#unmetSince = undefined
      this.#options.observe.unmet(undefined)
    } catch (error) {
      this.#waiting.unshift(due)
      this.#unmetSince ??= now
      this.#options.observe.unmet(error as Error)
      if (this.#options.level === 'auto' && this.#level !== 'memory' && now - this.#unmetSince >= LOWER_AFTER) {
        this.#unmet = error instanceof DurabilityUnmetError ? this.#level : undefined
        this.#level = undefined
        this.#unmetSince = undefined
      }
      return
    }
    await this.#settle(due)
  }

  async #settle({ lsn, heads }: Pending): Promise<void> {
    await this.#options.save(lsn, heads)
    this.#confirmed = lsn
    this.#options.confirm(lsn)
  }

  /** Everything that may be confirmed now, as one. */
  #due(level: Level, now: number): Taken | undefined {
    const ripe = this.#waiting.filter(({ takenAt }) => level !== 'memory' || now - takenAt >= MEMORY_DELAY)
    if (ripe.length === 0) return undefined
    this.#waiting.splice(0, ripe.length)
    const heads = new Map<string, Head>()
    for (const pending of ripe) for (const [key, head] of pending.heads) heads.set(key, head)
    const { lsn, takenAt } = ripe.at(-1) as Taken
    return { lsn, heads, takenAt }
  }

  /** The level in force; `auto` looks for a stronger one now and then: a replica may have come, or come back. */
  async #chosen(now: number): Promise<Level> {
    const raise = this.#options.level === 'auto' && this.#level !== LEVELS[0] && now - this.#chosenAt >= RAISE_EVERY
    if (this.#level !== undefined && !raise) return this.#level
    if (this.#level !== undefined) this.#unmet = undefined
    const level = await this.#choose()
    this.#chosenAt = now
    if (level !== this.#level) this.#options.observe.level(level)
    return level
  }

  /** An explicit level is taken at its word: where it cannot be met, confirming blocks, visibly. */
  async #choose(): Promise<Level> {
    const { level: configured, tryLevel } = this.#options
    let chosen: Level = 'memory'
    if (configured !== 'auto') chosen = configured
    else {
      // One trial writes to one primary, and a cluster has several.
      for (const level of LEVELS.slice(this.#unmet === undefined ? 0 : LEVELS.indexOf(this.#unmet) + 1)) {
        try {
          await tryLevel(level)
          chosen = level
          break
        } catch (error) {
          // A reply that says no rules the level out; a lost connection says nothing about it. Nor does a refusal that
          // meets the weakest level, too: Redis is full or read-only, and takes no write at all.
          const ruledOut = error instanceof DurabilityUnmetError || (error as Error).name === 'ReplyError'
          if (!ruledOut || level === 'memory') throw error
        }
      }
    }
    return chosen
  }
}
