import type pg from 'pg'
import { every } from '../../base/interval.js'
import { type Config, OWN_OUTBOX } from '../../config/schema.js'
import { endPostgres } from '../../postgres/client/connect.js'
import { type BucketAnswer, type BucketFacts, emptyBucket, readBuckets } from '../../postgres/outbox/buckets.js'
import { readGrowth } from '../../postgres/outbox/growth.js'
import { lockHolders } from '../../postgres/outbox/lock-holders.js'
import { type RetentionHolder, retentionHolders } from '../../postgres/outbox/retention-holders.js'
import { pruneCheckpoints } from '../../postgres/state/checkpoints.js'
import { lockLost } from '../../postgres/state/sessions.js'
import type { Logger } from '../../telemetry/log.js'
import type { Metrics } from '../../telemetry/metrics.js'
import { connectRepair, type StateStore } from '../confirm/state-store.js'
import {
  blockedBy,
  bytesOf,
  type KeepReason,
  keptFor,
  planExcess,
  planRetention,
  retentionLag,
  windowOf,
} from './retention-plan.js'
import type { ServerClock } from './server-clock.js'

const ROUND_EVERY_MS = 60_000

interface RetentionOptions {
  config: Config
  log: Logger
  metrics: Metrics
  stateStore: StateStore
  serverClock: ServerClock
  /** A connection without a limit to how long a statement runs. */
  connectPostgres(): Promise<pg.Client>
}

interface Round {
  facts: BucketFacts
  answers: { bucket: number; answer: BucketAnswer }[]
}

/**
 * Empties buckets of Outrider's own table whose rows are published and older than `retention`, or more than `retentionMaxSize`. The
 * database decides; here is only asked, once a minute, by the session that leads.
 */
class Retention {
  readonly #options: RetentionOptions
  #isRunning = false
  #said = ''

  constructor(options: RetentionOptions) {
    this.#options = options
  }

  start(signal: AbortSignal): void {
    every(ROUND_EVERY_MS, () => void this.#run(signal), signal)
    void this.#run(signal)
  }

  async #run(signal: AbortSignal): Promise<void> {
    if (this.#isRunning || signal.aborted) return
    this.#isRunning = true
    try {
      await this.#round(signal)
    } catch (error) {
      // Events flow without it.
      if (!signal.aborted) this.#say('warn', { err: error }, 'retention failed, retrying', (error as Error).message)
    } finally {
      this.#isRunning = false
    }
  }

  async #round(signal: AbortSignal): Promise<void> {
    const { stateStore } = this.#options
    const client = await this.#options.connectPostgres()
    const breakOff = () => client.connection.stream.destroy()
    signal.addEventListener('abort', breakOff, { once: true })
    try {
      // A connection that was made by name may lead to another server.
      if (!(await stateStore.holdsLock(client))) throw lockLost()
      await this.#ask(client)
    } finally {
      signal.removeEventListener('abort', breakOff)
      await endPostgres(client)
    }
  }

  async #ask(client: pg.Client): Promise<void> {
    const { config, metrics, serverClock, stateStore } = this.#options
    const facts = await readBuckets(client)
    const plan = planRetention(facts, config, serverClock.read(facts.now, facts.readAt))
    const isEmptied = plan.action === 'empty'
    await pruneCheckpoints(client, stateStore.lineage.lineage, isEmptied ? plan.windowMs : undefined)
    if (plan.action === 'keep') {
      metrics.outbox.setBlocked(plan.reason === 'setup' || plan.reason === 'clock_changed' ? plan.reason : undefined)
      this.#say(LEVEL[plan.reason], { reason: plan.reason }, KEPT[plan.reason])
      await this.#measure(client, facts)
      return
    }
    const round: Round = { facts, answers: [] }
    for (const bucket of plan.buckets) await this.#empty(client, round, bucket, plan.windowMs)
    await this.#shrink(client, round)
    round.facts = await readBuckets(client)
    metrics.outbox.setWindow(keptFor(round.facts, config) / 1000)
    await this.#report(client, round)
    await this.#measure(client, round.facts)
  }

  async #measure(client: pg.Client, facts: BucketFacts): Promise<void> {
    const { config, metrics, stateStore } = this.#options
    const { rows, oldestMs } = await readGrowth(client, stateStore.lineage.lineage, facts.buckets)
    const lagMs = retentionLag(oldestMs, facts, config)
    metrics.outbox.set({
      ...{ bytes: bytesOf(facts), maxBytes: lagMs === undefined ? undefined : config.retentionMaxSize, rows },
      oldestSeconds: oldestMs === undefined ? undefined : oldestMs / 1000,
      lagSeconds: lagMs === undefined ? undefined : lagMs / 1000,
    })
  }

  /** The table is larger than it may be: what is oldest goes, although it is younger than the window. */
  async #shrink(client: pg.Client, round: Round): Promise<void> {
    const { config } = this.#options
    round.facts = await readBuckets(client)
    for (const { bucket, windowsMs } of planExcess(round.facts, config)) {
      for (const windowMs of windowsMs) {
        const answer = await this.#empty(client, round, bucket, windowMs)
        if (answer !== 'unproven' && answer !== 'checkpoint') break
      }
      round.facts = await readBuckets(client)
      if (bytesOf(round.facts) <= config.retentionMaxSize) return
    }
  }

  async #empty(client: pg.Client, round: Round, bucket: number, windowMs: number): Promise<BucketAnswer> {
    const { log, metrics } = this.#options
    const bytes = round.facts.buckets.find((each) => each.bucket === bucket)?.bytes ?? 0
    const answer = await emptyBucket(client, bucket, windowMs)
    round.answers.push({ bucket, answer })
    if (answer === 'emptied') {
      metrics.outbox.bucketEmptied()
      log.info({ bucket, bytes, windowSeconds: Math.round(windowMs / 1000) }, 'outbox bucket emptied')
    }
    return answer
  }

  async #report(client: pg.Client, { facts, answers }: Round): Promise<void> {
    const { config, metrics } = this.#options
    const reason = blockedBy(answers, facts, config)
    const held = reason === undefined ? [] : await this.#holders(client, facts, reason)
    metrics.outbox.setBlocked(
      reason,
      held.map(({ slot }) => slot),
    )
    if (reason !== undefined) {
      const message = `rows of the outbox stay: ${BLOCKED[reason] ?? reason}`
      const holders = reason === 'in_use' ? { holders: await lockHolders(client, { incidents: true }) } : {}
      const lineages = held.length > 0 ? { lineages: held.map(({ lineage, slot }) => ({ lineage, slot })) } : {}
      this.#say('warn', { reason, bytes: bytesOf(facts), ...holders, ...lineages }, message, reason)
    } else if (keptFor(facts, config) < windowOf(config, facts.bucketMs)) {
      this.#say('warn', { seconds: Math.round(keptFor(facts, config) / 1000), bytes: bytesOf(facts) }, SHRUNK)
    } else this.#said = ''
  }

  /** The lineages that are the reason. */
  async #holders(client: pg.Client, facts: BucketFacts, reason: BucketAnswer): Promise<RetentionHolder[]> {
    if (reason !== 'gap' && reason !== 'checkpoint' && reason !== 'slot') return []
    const holders = await retentionHolders(client, windowOf(this.#options.config, facts.bucketMs))
    return holders.filter((holder) => holder.reason === reason)
  }

  /** Once, as long as it stays the same. */
  #say(level: 'info' | 'warn', fields: object, message: string, key = message): void {
    if (this.#said === key) return
    this.#said = key
    this.#options.log[level](fields, message)
  }
}

/** A table of a team's own is never emptied. */
export function startRetention(options: Omit<RetentionOptions, 'connectPostgres'>, signal: AbortSignal): void {
  const { config } = options
  if (config.outbox.table !== OWN_OUTBOX.table) return
  const connectPostgres = () => connectRepair(config.postgres, `outrider ${config.slot} retention`)
  new Retention({ ...options, connectPostgres }).start(signal)
}

const LEVEL: Record<KeepReason, 'info' | 'warn'> = {
  setting_off: 'info',
  not_asked: 'info',
  setup: 'warn',
  clock_changed: 'warn',
}

const KEPT: Record<KeepReason, string> = {
  setting_off: 'rows of the outbox stay: retention is 0',
  not_asked:
    'rows of the outbox stay: this installation is older than retention; set `retention: default`, or a duration, to empty it',
  setup: 'rows of the outbox stay: inserts still go to 8 buckets; run `outrider setup`',
  clock_changed: 'rows of the outbox stay for a day: the clock of the database was set',
}

const SHRUNK = 'rows of the outbox are kept for less than `retention`: it was larger than `retentionMaxSize`'

const BLOCKED: Partial<Record<BucketAnswer, string>> = {
  setup: 'inserts still go to 8 buckets; run `outrider setup`',
  index: 'a bucket has no index by inserting transactions; run `outrider setup --index txid`',
  gap: 'a gap is open, of this lineage or of another one of the table',
  rejected: 'the table alone has the content of a large row that was rejected; close its incident',
  checkpoint: 'a lineage of the table has no checkpoint that is old enough',
  slot: 'a slot of the table is missing, or has not confirmed what a checkpoint says',
  unproven: 'the table is larger than `retentionMaxSize`, and its rows are not known to be published',
  in_use: 'a transaction uses the bucket',
  slow: 'it takes too long to prove that they are published',
}
