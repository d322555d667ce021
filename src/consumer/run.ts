import type { Registry } from 'prom-client'
import { pause } from '../backoff.js'
import { ExitCode, Failure } from '../failure.js'
import { sqlState } from '../postgres/transaction.js'
import type { RedisClient } from '../redis/connect.js'
import type { Group, GroupState } from '../redis/group.js'
import { watchEventLoop } from './delivery/event-loop.js'
import { watchPool } from './delivery/pool-watch.js'
import { faultOf } from './fault.js'
import { Leases } from './leases.js'
import { maxWaiting } from './limits.js'
import { Link, StoppedError } from './link.js'
import { type ConsumerMetrics, createMetrics } from './metrics.js'
import type { ConsumerLogger, Settings } from './options.js'
import type { Setting } from './perform.js'
import { Capacity } from './read/capacity.js'
import { heartbeat } from './read/heartbeat.js'
import { claimPending } from './read/pending-claimer.js'
import { UnreadWatch } from './read/unread-watch.js'
import { Waiting, type WaitingState } from './read/waiting.js'
import { BLOCK, read } from './reader.js'
import type { Routes } from './routes.js'
import { Streams } from './streams.js'
import { takeInOrder } from './take.js'
import { look, pruneInbox, statesOf } from './upkeep.js'
import { LAST_WORDS, within } from './within.js'
import { Worker } from './worker.js'

export interface RunParts {
  connect(): Promise<RedisClient>
  settings: Settings
  routes: Routes
  setting: Setting
  registry: Registry
  log: ConsumerLogger
}

/** How a consumer stands. */
export interface Stats {
  group: string
  name: string
  state: 'running' | 'paused' | 'stopping' | 'stopped'
  /** Calls of handlers. */
  running: number
  /** Entries in this worker's hands that could run. */
  queued: number
  /** Entries in this worker's hands that wait for their next attempt. */
  waiting: number
  /** Since this worker last took an entry; undefined before the first. */
  idleSeconds: number | undefined
  /** What an ordered worker holds; undefined for an unordered one. */
  partitions: string[] | undefined
  /** Of the whole group. */
  streams: GroupState[]
}

/** One life of a consumer, from start to stop: its connections, and the loops that run side by side. */
export class Run {
  readonly #parts: RunParts
  readonly #stop = new AbortController()
  readonly #asking: Link
  readonly #reading: Link
  readonly #streams: Streams
  readonly #worker: Worker
  readonly #metrics: ConsumerMetrics
  readonly #unlisten: () => void
  readonly #leases: Leases | undefined
  readonly #capacity: Capacity
  readonly #waiting = new Waiting()
  /** What reads stops first; what keeps alive what runs, last. */
  readonly #readers: Promise<void>[] = []
  readonly #keepers: Promise<void>[] = []
  readonly #ending = new AbortController()
  #stopped: Promise<void> | undefined
  #tellEnd: () => void = () => {}
  /** Resolves when it has stopped. */
  readonly ended: Promise<void> = new Promise((resolve) => {
    this.#tellEnd = resolve
  })
  #lastRead: number | undefined
  #states: readonly GroupState[] = []

  constructor(parts: RunParts) {
    const { settings, setting, routes, log } = parts
    this.#parts = parts
    this.#asking = new Link(parts.connect, log)
    this.#reading = new Link(parts.connect, log)
    this.#streams = new Streams(settings, setting.database, log)
    this.#metrics = createMetrics(parts.registry, settings.group, {
      group: settings.group,
      running: () => this.#worker.schedule.running,
      waiting: () => this.#worker.schedule.count('waiting'),
      held: () => this.#worker.schedule.held,
      idleSeconds: () => this.#idleSeconds ?? 0,
      oldestRunningSeconds: () => this.#worker.oldestRunningSeconds,
      streams: () => this.#states,
      backoff: () => this.#backoff,
      breakers: () => this.#worker.breakers,
    })
    this.#unlisten = setting.database.onIdleLoss((error) => {
      log.debug({ err: error }, 'the pool lost a connection that was not in use')
    })
    this.#worker = new Worker({
      ...{ settings, routes, setting, link: this.#asking, metrics: this.#metrics, log },
      leaseOf: (key) => this.#leases?.get(key),
      onFenced: (key) => this.#leases?.lost(key),
      onGap: (key) => this.#leases?.retake(key),
      maxWaiting: () => maxWaiting(routes.all.length * (this.#streams.groups.length + this.#waiting.groups.length)),
    })
    this.#capacity = new Capacity(this.#worker, settings, routes, () => this.#streams.groups)
    if (settings.ordered) this.#leases = this.#makeLeases()
  }

  /** Rejects where Redis or the database cannot be used; nothing is left open then. */
  async start(): Promise<void> {
    const { settings, log, routes } = this.#parts
    try {
      await this.#asking.open()
      // Asked once: what is refused now is for a person to mend.
      const client = await this.#asking.client()
      await this.#streams.ensure((question) => question(client), routes.streams)
      await this.#reading.open()
      this.#stop.signal.throwIfAborted()
    } catch (error) {
      this.#ending.abort()
      this.#asking.close()
      this.#reading.close()
      this.#metrics.close()
      this.#unlisten()
      // Whatever failed then failed for that.
      if (this.#stop.signal.aborted) throw new StoppedError('The consumer was stopped while it started')
      throw explain(error)
    }
    this.#begin()
    const streams = this.#streams.groups.map(({ key }) => key)
    log.info({ streams, concurrency: settings.concurrency }, 'the consumer has started')
  }

  #begin(): void {
    const { settings, log, setting } = this.#parts
    const [signal, ending] = [this.#stop.signal, this.#ending.signal]
    const groups = () => this.#streams.groups
    const unread = new UnreadWatch(this.#metrics, log)
    const shared = {
      worker: this.#worker,
      ensure: this.#ensure,
      onRead: this.#onRead,
      unread,
      signal,
      roomBytes: () => this.#worker.payloadRoom,
    }
    const upkeep = {
      ...{ settings, database: setting.database, link: this.#asking, log, groups, ensure: this.#ensure, unread },
      waiting: () => this.#waiting.groups,
      signal: ending,
    }
    const tell = (states: readonly GroupState[]) => {
      this.#states = states
    }
    const keep = (loop: () => Promise<void>) => this.#keepers.push(this.#loop(ending, loop))
    const readOn = (loop: () => Promise<void>) => this.#readers.push(this.#loop(signal, loop))
    keep(() => pruneInbox(upkeep))
    keep(() => this.#watchPool(ending))
    keep(() => look(upkeep, tell))
    const { claimAfter } = settings
    keep(() => watchEventLoop({ log, claimAfter, running: () => this.#worker.schedule.running, signal: ending }))
    const leases = this.#leases
    const capacity = this.#capacity
    const own = { worker: this.#worker, link: this.#asking, claimAfter, room: capacity.roomForLeft }
    if (leases) {
      const group = (key: string) => this.#streams.group(key)
      readOn(() => takeInOrder({ ...shared, leases, link: this.#reading, group, room: capacity.roomOf }))
      keep(() => leases.keep())
      // What an unordered worker of this group has set aside before: this one sets nothing aside.
      const held = (all: readonly Group[]) => all.filter(({ stream }) => leases.get(stream))
      const left = { ...own, groups: () => held(this.#waiting.groups) }
      readOn(() => this.#waiting.take({ ...left, groups: () => held(groups()), signal }))
      readOn(() => claimPending({ ...left, signal }))
      keep(() => heartbeat({ ...left, signal: ending }))
    } else {
      const all = { ...own, groups: () => [...groups(), ...this.#waiting.groups] }
      readOn(() => read({ ...shared, link: this.#reading, groups, capacity }))
      readOn(() => claimPending({ ...all, signal }))
      readOn(() => this.#waiting.take({ ...own, groups, signal }))
      keep(() => heartbeat({ ...all, signal: ending }))
    }
  }

  pause(): void {
    this.#worker.paused = true
  }

  resume(): void {
    this.#worker.paused = false
  }

  /** Never rejects; asked again it waits for the same end. */
  stop(timeout: number): Promise<void> {
    this.#stopped ??= this.#end(timeout)
    return this.#stopped
  }

  async #end(timeout: number): Promise<void> {
    const { log } = this.#parts
    this.#stop.abort()
    // It also wakes a reader that waits for room. What a read that still waits is given is released with the rest.
    await Promise.all([this.#worker.finish(timeout), within(Promise.all(this.#readers), BLOCK + LAST_WORDS)])
    this.#reading.close()
    await this.#worker.close()
    // Neither is a Postgres that is gone waited for.
    await within(this.#leases?.leave() ?? Promise.resolve(), LAST_WORDS).catch((error) => {
      log.warn({ err: error }, 'the leases could not be given back; they pass on when they have run out')
    })
    await this.#takeLeave()
    this.#ending.abort()
    this.#asking.close()
    await within(Promise.all([...this.#readers, ...this.#keepers]), LAST_WORDS)
    this.#metrics.close()
    this.#unlisten()
    log.info({}, 'the consumer has stopped')
    this.#tellEnd()
  }

  async stats(): Promise<Stats> {
    const { settings } = this.#parts
    const { schedule, paused } = this.#worker
    const ended = this.#ending.signal.aborted
    return {
      group: settings.group,
      name: settings.name,
      state: ended ? 'stopped' : this.#stopped ? 'stopping' : paused ? 'paused' : 'running',
      running: schedule.running,
      queued: schedule.count('queued') + schedule.count('behind'),
      waiting: schedule.count('waiting'),
      idleSeconds: this.#idleSeconds,
      partitions: this.#leases?.all().map(({ key }) => key),
      streams: ended ? [] : await this.#lookAtStreams(),
    }
  }

  /** By stream: how many events wait in Redis, and how long the one that this process or Redis knows for longest has failed. */
  get #backoff(): WaitingState[] {
    const none = this.#streams.groups.map(({ key }) => ({ stream: key, count: 0, oldestSeconds: 0 }))
    const states = new Map([...none, ...this.#waiting.states()].map((state) => [state.stream, { ...state }]))
    for (const { group, failingSince } of this.#worker.schedule.items()) {
      if (failingSince === undefined) continue
      const state = states.get(group.stream) ?? { stream: group.stream, count: 0, oldestSeconds: 0 }
      state.oldestSeconds = Math.max(state.oldestSeconds, (Date.now() - failingSince) / 1000)
      states.set(group.stream, state)
    }
    return [...states.values()]
  }

  /** Where Redis does not answer, as it was when it last did. */
  async #lookAtStreams(): Promise<GroupState[]> {
    let states = [...this.#states]
    const look = async (client: RedisClient) => {
      states = await statesOf(client, this.#streams.groups)
    }
    await within(this.#asking.ask(look), LAST_WORDS).catch(() => {})
    return states
  }

  get #idleSeconds(): number | undefined {
    return this.#lastRead === undefined ? undefined : (performance.now() - this.#lastRead) / 1000
  }

  #watchPool(signal: AbortSignal): Promise<void> {
    const { settings, setting, log } = this.#parts
    return watchPool({
      isBusy: () => this.#worker.schedule.running >= settings.concurrency,
      waiting: () => setting.database.waitingOthers(),
      onStarved: () => this.#metrics.poolStarved(),
      warn: (waiting) =>
        log.warn(
          { waiting, running: this.#worker.schedule.running, oldestRunningSeconds: this.#worker.oldestRunningSeconds },
          'handlers wait for a connection of the pool while all of them run: a handler must use tx, not the pool, or the pool must be larger than concurrency',
        ),
      signal,
    })
  }

  readonly #onRead = (): void => {
    this.#lastRead = performance.now()
  }

  readonly #ensure = async (): Promise<void> => {
    try {
      await this.#streams.ensure((question) => this.#asking.once(question), this.#parts.routes.streams)
    } catch (error) {
      if (error instanceof StoppedError) throw error
      this.#parts.log.warn({ err: error }, 'the groups could not be looked after; it is tried again')
      await pause(AFTER_A_FAILURE, this.#stop.signal)
    }
  }

  async #takeLeave(): Promise<void> {
    // Stopped while it connects for the first time: nobody knows it yet.
    if (this.#streams.groups.length === 0) return
    const say = async (client: RedisClient) => {
      const groups = [...this.#streams.groups, ...this.#waiting.groups]
      await Promise.allSettled(groups.map((group) => leave(group, client)))
    }
    // A Redis that is gone is not waited for.
    await within(this.#asking.client().then(say), LAST_WORDS).catch(() => {})
  }

  #makeLeases(): Leases {
    const { settings, setting, routes, log } = this.#parts
    const worker = this.#worker
    return new Leases({
      database: setting.database,
      group: settings.group,
      ttl: settings.claimAfter,
      log,
      streams: () => routes.streams,
      keys: (stream) => this.#streams.keys(stream),
      onLost: (key) => worker.loseAll(key),
      letGo: async (key, isLeaving) => {
        await worker.release(key)
        while (worker.schedule.heldOf(key) > 0) {
          await worker.changed()
          if (!isLeaving()) return
          // What ran and has failed: its next attempt is the next holder's.
          await worker.release(key)
        }
      },
      stopping: this.#stop.signal,
      signal: this.#ending.signal,
    })
  }

  /** A loop that ended by an error would end the consumer in silence, so it begins again. */
  readonly #loop = async (signal: AbortSignal, loop: () => Promise<void>): Promise<void> => {
    while (!signal.aborted) {
      try {
        await loop()
      } catch (error) {
        if (error instanceof StoppedError) return
        this.#parts.log.error({ err: error }, 'a bug in Outrider: please report it')
        await pause(AFTER_A_BUG, signal)
      }
    }
  }
}

const AFTER_A_BUG = 1_000
const AFTER_A_FAILURE = 1_000

async function leave(group: Group, client: RedisClient): Promise<void> {
  await group.leave(client, Number.MAX_SAFE_INTEGER, true)
}

/** What a person is told whose consumer does not start. */
function explain(error: unknown): unknown {
  if (error instanceof Failure || error instanceof StoppedError || !(error instanceof Error)) return error
  const state = sqlState(error) ?? ''
  if (/^(3F000|42P01|42883|42703)$/.test(state)) {
    return new Failure(
      `Expected Outrider's inbox in the workers' database, as this version has it, found it missing or older: ${error.message}. ` +
        'Check which database the pool connects to; `outrider setup --only inbox` creates or completes it.',
      { cause: error },
    )
  }
  if (state === '42501') {
    const advice = 'Grant outrider_consumer to the role that the pool connects as.'
    return new Failure(`The worker's role lacks a privilege: ${error.message}. ${advice}`, { cause: error })
  }
  if (faultOf({ cause: error, stage: 'opening', session: 'aborted' }) === 'outage' && error.name !== 'ReplyError') {
    const advice = 'Check what the pool connects to.'
    return new Failure(`The workers' database cannot be used: ${error.message || state}. ${advice}`, {
      cause: error,
      exitCode: ExitCode.unreachable,
    })
  }
  return error
}
