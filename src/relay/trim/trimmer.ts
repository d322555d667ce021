import { pause } from '../../base/backoff.js'
import { inBatches } from '../../base/in-batches.js'
import { every } from '../../base/interval.js'
import type { Config } from '../../config/schema.js'
import { isLeftToDefault, type TrimPolicy, trimPolicyOf } from '../../config/trimming.js'
import { deadKey, streamOf } from '../../event/names.js'
import type { Position } from '../../event/position.js'
import { mayTrim, saveHorizon } from '../../postgres/state/horizons.js'
import { readTrimming, type Trimming } from '../../postgres/state/trimming.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { classifyRedis } from '../../redis/client/errors.js'
import {
  cut,
  findFirst,
  type GroupFloor,
  surveyForTrim,
  type TrimmingHead,
  type TrimStep,
  trim,
  trimDead,
} from '../../redis/streams/trim.js'
import type { Logger } from '../../telemetry/log.js'
import type { Metrics } from '../../telemetry/metrics.js'
import type { StateStore } from '../confirm/state-store.js'
import { SideConnection } from '../side-connection.js'
import { HeldError, isOfStream } from './held-error.js'
import { trimmedOf } from './horizon.js'
import { KnownGroups } from './known-groups.js'
import { LookSchedule, type ReachedStream } from './look-schedule.js'
import { MemoryPressure } from './memory-pressure.js'
import { MovedMarks } from './moved-marks.js'
import { policyText, sharedPolicy } from './shared-policy.js'
import { REFUSED_PAUSE_MS, StreamReport } from './stream-report.js'
import { planTrim, type TrimFacts, type TrimPlan } from './trim-plan.js'

/** How often each stream is looked at, in milliseconds; more often where less is kept. */
const LOOK_EVERY_MS = 60_000
const TICK_MS = 1_000
/** Until the next look at a stream that is trimmed for memory, in milliseconds: each removes a part. */
const MEMORY_LOOK_MS = 5_000
/** What takes this long is lost on the way, in milliseconds. */
const COMMAND_TIMEOUT_MS = 30_000
/** Streams that are looked at side by side. */
const STREAMS_AT_ONCE = 8
/** Steps in a row for one stream: 200,000 entries. */
const MAX_STEPS = 200
/** Between two of them, so that others have their turn, in milliseconds. */
const STEP_PAUSE_MS = 5

export interface TrimmerOptions {
  config: Pick<Config, 'streams'>
  log: Logger
  metrics: Pick<Metrics, 'trimmed' | 'cut' | 'deadLettersTrimmed' | 'setStream' | 'removeStream' | 'errors'>
  stateStore: StateStore
  timeline: number
  connectRedis(commandTimeout: number): Promise<RedisClient>
  /** Every stream of the lineage. */
  streams(): Iterable<ReachedStream>
  /** Aborted when the session ends. */
  signal: AbortSignal
}

/** The stream that is trimmed, and the other lineages in it. */
interface Work {
  client: RedisClient
  head: TrimmingHead
  others: readonly string[]
}

/**
 * Trims the streams of a lineage, over a connection of its own.
 *
 *     look ── what may go? ── trim, asking once more ── record what left the stream unfinished ── save the horizon
 *
 * The horizon says what is gone, so it comes last: a repair before that puts back events that every group has finished, which consumers
 * skip; it never leaves out one that a group still needs. What goes wrong for one stream is tried again when it is looked at next. Nothing
 * of it ends the session.
 */
export class Trimmer {
  readonly #options: TrimmerOptions
  readonly #connection: SideConnection
  readonly #groups: KnownGroups
  readonly #moved: MovedMarks
  readonly #report: StreamReport
  readonly #pressure: MemoryPressure
  readonly #schedule = new LookSchedule()
  #trimming: Trimming | undefined
  #isRunning = false
  /** Streams that this session has looked at. */
  readonly #looked = new Set<string>()
  /** Streams whose horizon may not cover yet what was trimmed. */
  readonly #unsaved = new Set<string>()
  /** Streams whose last look failed: that is said once. */
  readonly #failing = new Set<string>()

  constructor(options: TrimmerOptions) {
    this.#options = options
    this.#groups = new KnownGroups(options.stateStore)
    this.#moved = new MovedMarks({ ...options, groups: this.#groups })
    this.#report = new StreamReport(options.metrics)
    this.#pressure = new MemoryPressure(options.log)
    this.#connection = new SideConnection({
      connect: () => options.connectRedis(COMMAND_TIMEOUT_MS),
      isHarmless: isOfStream,
    })
  }

  /** To be called once all heads are taken over. */
  start(): void {
    const { signal } = this.#options
    signal.addEventListener('abort', () => this.#connection.close(), { once: true })
    every(TICK_MS, () => void this.#tick(), signal)
  }

  async #tick(): Promise<void> {
    if (this.#isRunning) return
    this.#isRunning = true
    try {
      this.#trimming ??= await this.#load()
      const due = this.#schedule.take(this.#options.streams(), performance.now(), (key) => this.#intervalOf(key))
      await inBatches(due, STREAMS_AT_ONCE, ([key, position]) => this.#look(key, position))
      await this.#groups.save(performance.now())
      this.#failing.delete('')
    } catch (error) {
      this.#failed(error as Error)
    } finally {
      this.#isRunning = false
    }
  }

  async #load(): Promise<Trimming> {
    const { config, log, stateStore } = this.#options
    await this.#groups.load()
    await this.#moved.load()
    const trimming = await stateStore.inTurn((postgres) => readTrimming(postgres, stateStore.lineage.lineage))
    if (!trimming.byDefault && isLeftToDefault(config.streams)) log.info(NOT_BY_DEFAULT)
    return trimming
  }

  #policyOf(key: string): TrimPolicy {
    return trimPolicyOf(this.#options.config.streams, streamOf(key), this.#trimming?.byDefault ?? false)
  }

  #intervalOf(key: string): number {
    const { retention } = this.#policyOf(key)
    return retention === undefined ? LOOK_EVERY_MS : Math.max(TICK_MS, Math.min(LOOK_EVERY_MS, retention / 10))
  }

  async #look(key: string, position: Position): Promise<void> {
    if (this.#options.signal.aborted) return
    try {
      await this.#connection.use((client) => this.#trim(client, key, position))
      this.#failing.delete(key)
    } catch (error) {
      this.#failed(error as Error, key)
    }
  }

  async #trim(client: RedisClient, key: string, position: Position): Promise<void> {
    const { stateStore } = this.#options
    const { lineage } = stateStore.own
    const own = this.#policyOf(key)
    // Once: a lineage that has ended here may publish from another copy of this database, and says again what it keeps.
    const retired = this.#looked.has(key) ? [] : (this.#trimming?.retired ?? [])
    const asked = this.#report.measures(performance.now())
    const survey = await surveyForTrim(client, key, { lineage, policy: policyText(own), retired, measures: asked })
    if (survey === undefined) return this.#forget(key)
    this.#looked.add(key)
    const others = new Map([...survey.policies].filter(([other]) => other !== lineage))
    const policy = sharedPolicy(own, others.values())
    const facts: TrimFacts = { ...survey, policy, missing: await this.#groups.seen(key, survey.groups, policy.groups) }
    const plan = planTrim(facts)
    const groups = [...this.#groups.of(key)].map(({ name }) => name)
    await this.#report.report(client, key, { survey, asked, plan, groups }, performance.now())
    this.#pressure.see(key, facts, plan)
    const work = { client, head: { key, ...stateStore.own, position }, others: [...others.keys()] }
    if (plan.step || plan.cut) {
      await this.#requireLeave()
      this.#unsaved.add(key)
      const removed = await this.#shorten(work, plan, [...facts.groups, ...facts.missing])
      // Where none could go, or Redis is full of something else, the next look is soon enough.
      if (plan.isForMemory && removed > 0) this.#schedule.setDueBy(key, performance.now() + MEMORY_LOOK_MS)
    }
    if (this.#unsaved.has(key)) await this.#saveHorizon(work)
    await this.#trimDead(client, key, own, survey.now)
    if (this.#moved.isDue(key, performance.now(), policy.retention)) {
      await this.#moved.forget(client, key, [...facts.groups, ...facts.missing], () => isSound(work))
    }
  }

  /** The stream is gone. */
  #forget(key: string): void {
    this.#options.metrics.removeStream(key)
    this.#pressure.remove(key)
  }

  /** Resolves with how many finished entries the step has removed. */
  async #shorten(work: Work, { step, cut }: TrimPlan, known: readonly GroupFloor[]): Promise<number> {
    const removed = step ? await this.#trimFinished(work, step, known) : 0
    if (!cut) return removed
    const most = cut.finished ? cut.finished.most - removed : 0
    if (cut.finished && most > 0) await this.#trimFinished(work, { ...cut.finished, most }, known)
    await this.#cut(work, cut.maxLength)
    return removed
  }

  /** Resolves with how many entries were removed. */
  #trimFinished({ client, head, others }: Work, step: TrimStep, known: readonly GroupFloor[]): Promise<number> {
    let left = step.most
    return this.#inSteps(head.key, async () => {
      if (left === 0) return 0
      const removed = asItMust(await trim(client, head, { ...step, most: left }, known, others))
      if (left !== undefined) left = Math.max(0, left - removed)
      if (removed > 0) this.#options.metrics.trimmed(head.key, removed)
      return removed
    })
  }

  /** Past what groups have not finished, which is said of each. */
  async #cut({ client, head, others }: Work, maxLength: number): Promise<void> {
    const { log, metrics } = this.#options
    const groups: Record<string, number> = {}
    const entries = await this.#inSteps(head.key, async () => {
      const { removed, unfinished } = asItMust(await cut(client, head, maxLength, others))
      for (const [group, count] of unfinished) {
        groups[group] = (groups[group] ?? 0) + count
        metrics.cut(head.key, group, count)
      }
      return removed
    })
    if (entries === 0) return
    metrics.trimmed(head.key, entries)
    const level = Object.keys(groups).length > 0 ? 'warn' : 'info'
    log[level]({ stream: head.key, maxLength, entries, unfinished: groups }, 'stream cut to its maximum length')
  }

  async #trimDead(client: RedisClient, key: string, own: TrimPolicy, now: number): Promise<void> {
    if (own.deadLetterRetention === undefined) return
    const upTo = `${Math.max(0, now - own.deadLetterRetention)}-0`
    for (const { name } of this.#groups.of(key)) {
      const removed = await this.#inSteps(key, () => trimDead(client, deadKey(key, name), upTo))
      if (removed > 0) this.#options.metrics.deadLettersTrimmed(key, name, removed)
    }
  }

  /** Until a step removes nothing. Resolves with how many entries were removed. Where more may go, the stream is due again at once. */
  async #inSteps(key: string, step: () => Promise<number>): Promise<number> {
    const { signal } = this.#options
    let all = 0
    for (let steps = 0; steps < MAX_STEPS && !signal.aborted; steps++) {
      const removed = await step()
      if (removed === 0) return all
      all += removed
      await pause(STEP_PAUSE_MS, signal)
    }
    this.#schedule.setDueBy(key, performance.now())
    return all
  }

  async #requireLeave(): Promise<void> {
    const { stateStore } = this.#options
    if (await stateStore.inTurn((postgres) => mayTrim(postgres, stateStore.own))) return
    throw new HeldError('A gap is open, or another session leads: nothing is trimmed until it is closed.')
  }

  /**
   * What left the stream unfinished is recorded once it is known which event is the first one: whatever left before is found. Unless
   * Redis loses something meanwhile, or another relay trims the stream, too: then the first event is not the same afterwards.
   */
  async #saveHorizon({ client, head, others }: Work): Promise<void> {
    const { stateStore, timeline } = this.#options
    const { key, position } = head
    const findIt = async () => asItMust(await findFirst(client, head, stateStore.lineage.source, others))
    const first = await findIt()
    const isRecorded = await this.#moved.record(client, key)
    if (!isRecorded || (await findIt()).id !== first.id) return
    const trimmed = trimmedOf(first, position, timeline)
    if (trimmed) await stateStore.inTurn((postgres) => saveHorizon(postgres, stateStore.own, key, trimmed))
    this.#unsaved.delete(key)
  }

  /** What does not concern one stream concerns all. */
  #failed(error: Error, stream = ''): void {
    const { log, metrics, signal } = this.#options
    if (signal.aborted) return
    const isRefusal = error.name === 'ReplyError'
    const code = isRefusal ? classifyRedis(error.message).reason : 'trimming'
    metrics.errors.inc({ target: isRefusal ? 'redis' : 'outrider', code })
    const isForbidden = code === 'redis_noperm'
    if (isForbidden) this.#schedule.setDue(stream, performance.now() + REFUSED_PAUSE_MS)
    const isKnown = isOfStream(error) ? this.#failing.has(stream) : this.#failing.size > 0
    // Redis does not always name what it has refused.
    const lacks = isForbidden ? { lacks: PERMISSIONS } : {}
    if (!isKnown) log.warn({ err: error, stream, ...lacks }, 'trimming failed, retrying')
    this.#failing.add(stream)
  }
}

/** `found`: what a script gives of a stream that may be trimmed. */
function asItMust<T>(found: T | undefined): T {
  if (found !== undefined) return found
  throw new HeldError(
    'Expected the stream as this session left it, found that it has lost events, or that another relay publishes to it now.',
  )
}

/** May the stream be trimmed? Then it has everything that it should have. Nothing is before that entry. */
const isSound = async ({ client, head, others }: Work): Promise<boolean> =>
  (await trim(client, head, { upTo: '0-1', most: undefined }, [], others)) !== undefined

const PERMISSIONS = "permissions of the relay's Redis user for trimming: docs/redis-acl.md"
const NOT_BY_DEFAULT = 'streams without a retention are not trimmed: an earlier version set up this installation'
