import type { Registry } from 'prom-client'
import { pause } from '../base/backoff.js'
import type { RedisClient } from '../redis/client/connect.js'
import type { GroupState } from '../redis/streams/group-replies.js'
import { maxWaiting } from './delivery/limits.js'
import { Worker } from './delivery/worker.js'
import type { HandlerRegistry } from './handler-registry.js'
import type { ExecutionContext } from './inbox/execute.js'
import { Loops } from './loops.js'
import { statesOf } from './maintenance.js'
import { type ConsumerMetrics, createConsumerMetrics } from './metrics.js'
import type { ConsumerLogger, ConsumerSettings } from './options.js'
import { Capacity } from './read/capacity.js'
import { Leases } from './read/leases.js'
import { Waiting } from './read/waiting.js'
import { ConsumerGroups } from './redis/groups.js'
import { isReply, ReconnectingClient, StoppedError } from './redis/reconnecting-client.js'
import { shutDown } from './shutdown.js'
import { explainRedisStartupError, explainStartupError } from './startup-error.js'
import { backoffStates, type Stats } from './stats.js'
import { LAST_WORDS, withTimeout } from './with-timeout.js'

export interface RuntimeParts {
  connect(): Promise<RedisClient>
  settings: ConsumerSettings
  routes: HandlerRegistry
  execution: ExecutionContext
  registry: Registry
  log: ConsumerLogger
}

/** One life of a consumer, from start to stop: its connections, and the loops that run side by side. */
export class Runtime {
  readonly #parts: RuntimeParts
  readonly #stop = new AbortController()
  readonly #asking: ReconnectingClient
  readonly #reading: ReconnectingClient
  readonly #streams: ConsumerGroups
  readonly #worker: Worker
  readonly #metrics: ConsumerMetrics
  readonly #unlisten: () => void
  readonly #leases: Leases | undefined
  readonly #capacity: Capacity
  readonly #waiting = new Waiting()
  readonly #loops: Loops
  readonly #ending = new AbortController()
  #stopped: Promise<void> | undefined
  #tellEnd: () => void = () => {}
  /** Resolves when it has stopped. */
  readonly ended: Promise<void> = new Promise((resolve) => {
    this.#tellEnd = resolve
  })
  #lastRead: number | undefined
  #states: readonly GroupState[] = []

  constructor(parts: RuntimeParts) {
    const { settings, execution, routes, log } = parts
    this.#parts = parts
    this.#asking = new ReconnectingClient(parts.connect, log)
    this.#reading = new ReconnectingClient(parts.connect, log)
    this.#streams = new ConsumerGroups(settings, execution.database, log)
    this.#metrics = createConsumerMetrics(parts.registry, settings.group, {
      group: settings.group,
      running: () => this.#worker.scheduler.running,
      waiting: () => this.#worker.scheduler.count('waiting'),
      held: () => this.#worker.scheduler.held,
      idleSeconds: () => this.#idleSeconds ?? 0,
      oldestRunningSeconds: () => this.#worker.oldestRunningSeconds,
      streams: () => this.#states,
      backoff: () => backoffStates(this.#streams.groups, this.#waiting.states(), this.#worker.scheduler.deliveries()),
      breakers: () => this.#worker.breakers,
    })
    this.#unlisten = execution.database.onIdleLoss((error) => {
      log.debug({ err: error }, 'the pool lost a connection that was not in use')
    })
    this.#worker = new Worker({
      ...{ settings, routes, execution, link: this.#asking, metrics: this.#metrics, log },
      leaseOf: (key) => this.#leases?.get(key),
      onFenced: (key) => this.#leases?.lost(key),
      onGap: (key) => this.#leases?.retake(key),
      maxWaiting: () => maxWaiting(routes.all.length * (this.#streams.groups.length + this.#waiting.groups.length)),
    })
    this.#capacity = new Capacity(this.#worker, settings, routes, () => this.#streams.groups)
    if (settings.ordered) this.#leases = this.#makeLeases()
    this.#loops = new Loops({
      ...{ settings, execution, log, metrics: this.#metrics, worker: this.#worker, capacity: this.#capacity },
      ...{ streams: this.#streams, waiting: this.#waiting, leases: this.#leases },
      ...{ asking: this.#asking, reading: this.#reading },
      ensure: () => this.#ensure(),
      onRead: () => {
        this.#lastRead = performance.now()
      },
      onStates: (states) => {
        this.#states = states
      },
      ...{ stopping: this.#stop.signal, ending: this.#ending.signal },
    })
  }

  /** Rejects where Redis or the database cannot be used; nothing is left open then. */
  async start(): Promise<void> {
    const { settings, log, routes } = this.#parts
    try {
      await this.#asking.open()
      await this.#streams.ensure((question) => this.#askAtStart(question), routes.streams)
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
      throw explainStartupError(error)
    }
    this.#loops.start()
    const streams = this.#streams.groups.map(({ key }) => key)
    log.info({ streams, concurrency: settings.concurrency }, 'the consumer has started')
  }

  /**
   * Asked once: what is refused now is for a person to fix. Over a second connection where the first was lost: a Cluster's client ends
   * when the nodes that it knows are gone, also right after it has connected.
   */
  async #askAtStart<T>(question: (client: RedisClient) => Promise<T>): Promise<T> {
    const client = await this.#asking.client()
    try {
      return await question(client)
    } catch (error) {
      if (isReply(error)) throw error
      this.#asking.fault(client, error)
    }
    await this.#asking.open()
    try {
      return await question(await this.#asking.client())
    } catch (error) {
      throw explainRedisStartupError(error)
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
    await shutDown(timeout, {
      ...{ worker: this.#worker, loops: this.#loops, leases: this.#leases, log, ending: this.#ending },
      ...{ asking: this.#asking, reading: this.#reading },
      groups: () => [...this.#streams.groups, ...this.#waiting.groups],
    })
    this.#metrics.close()
    this.#unlisten()
    log.info({}, 'the consumer has stopped')
    this.#tellEnd()
  }

  async stats(): Promise<Stats> {
    const { settings } = this.#parts
    const { scheduler, paused } = this.#worker
    const ended = this.#ending.signal.aborted
    return {
      group: settings.group,
      name: settings.name,
      state: ended ? 'stopped' : this.#stopped ? 'stopping' : paused ? 'paused' : 'running',
      running: scheduler.running,
      queued: scheduler.count('queued') + scheduler.count('behind'),
      waiting: scheduler.count('waiting'),
      idleSeconds: this.#idleSeconds,
      partitions: this.#leases?.all().map(({ key }) => key),
      streams: ended ? [] : await this.#lookAtStreams(),
    }
  }

  /** Where Redis does not answer, as it was when it last did. */
  async #lookAtStreams(): Promise<GroupState[]> {
    let states = [...this.#states]
    const look = async (client: RedisClient) => {
      states = await statesOf(client, this.#streams.groups)
    }
    await withTimeout(this.#asking.request(look), LAST_WORDS).catch(() => {})
    return states
  }

  get #idleSeconds(): number | undefined {
    return this.#lastRead === undefined ? undefined : (performance.now() - this.#lastRead) / 1000
  }

  async #ensure(): Promise<void> {
    try {
      await this.#streams.ensure((question) => this.#asking.requestOnce(question), this.#parts.routes.streams)
    } catch (error) {
      if (error instanceof StoppedError) throw error
      this.#parts.log.warn({ err: error }, 'the groups could not be looked after; it is tried again')
      await pause(AFTER_A_FAILURE, this.#stop.signal)
    }
  }

  #makeLeases(): Leases {
    const { settings, execution, routes, log } = this.#parts
    const worker = this.#worker
    return new Leases({
      database: execution.database,
      group: settings.group,
      ttl: settings.claimAfter,
      log,
      streams: () => routes.streams,
      keys: (stream) => this.#streams.keys(stream),
      onLost: (key) => worker.loseAll(key),
      letGo: async (key, isLeaving) => {
        await worker.release(key)
        while (worker.scheduler.heldOf(key) > 0) {
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
}

const AFTER_A_FAILURE = 1_000
