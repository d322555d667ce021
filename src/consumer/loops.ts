import type { ConsumerGroup } from '../redis/streams/consumer-group.js'
import type { GroupState } from '../redis/streams/group-replies.js'
import { watchEventLoop } from './delivery/event-loop.js'
import { watchPool } from './delivery/pool-watch.js'
import type { Worker } from './delivery/worker.js'
import type { ExecutionContext } from './inbox/execute.js'
import { keepRunning } from './keep-running.js'
import { pruneInbox, refreshGroups } from './maintenance.js'
import type { ConsumerMetrics } from './metrics.js'
import type { ConsumerLogger, ConsumerSettings } from './options.js'
import type { Capacity } from './read/capacity.js'
import { readGroups } from './read/group-reader.js'
import { heartbeat } from './read/heartbeat.js'
import type { Leases } from './read/leases.js'
import { readInOrder } from './read/ordered-reader.js'
import { claimPending } from './read/pending-claimer.js'
import { UnreadWatch } from './read/unread-watch.js'
import type { Waiting } from './read/waiting.js'
import type { ConsumerGroups } from './redis/groups.js'
import type { ReconnectingClient } from './redis/reconnecting-client.js'

export interface LoopsParts {
  settings: ConsumerSettings
  execution: ExecutionContext
  log: ConsumerLogger
  metrics: ConsumerMetrics
  worker: Worker
  capacity: Capacity
  streams: ConsumerGroups
  waiting: Waiting
  /** Undefined for an unordered consumer. */
  leases: Leases | undefined
  asking: ReconnectingClient
  reading: ReconnectingClient
  /** Makes the groups that are missing. */
  ensure(): Promise<void>
  onRead(): void
  onStates(states: readonly GroupState[]): void
  /** The consumer stops: nothing more is read. */
  stopping: AbortSignal
  /** All that ran has finished. */
  ending: AbortSignal
}

/** The loops of a consumer, which run side by side. The readers end first; those that keep alive what runs end last. */
export class Loops {
  readonly #parts: LoopsParts
  readonly #readers: Promise<void>[] = []
  readonly #keepers: Promise<void>[] = []

  constructor(parts: LoopsParts) {
    this.#parts = parts
  }

  start(): void {
    const { settings, execution, log, metrics, worker, streams, waiting, leases, asking, ensure } = this.#parts
    const { onStates, ending } = this.#parts
    const unread = new UnreadWatch(metrics, log)
    const maintenance = {
      ...{ settings, database: execution.database, link: asking, log, metrics, ensure, unread, signal: ending },
      ...{ groups: () => streams.groups, waiting: () => waiting.groups },
    }
    this.#keep(() => pruneInbox(maintenance))
    this.#keep(() => this.#watchPool())
    this.#keep(() => refreshGroups(maintenance, onStates))
    const { claimAfter } = settings
    this.#keep(() => watchEventLoop({ log, claimAfter, running: () => worker.scheduler.running, signal: ending }))
    if (leases) this.#startOrdered(leases, unread)
    else this.#startUnordered(unread)
  }

  /** Resolves when all readers have ended. */
  async readersEnded(): Promise<void> {
    await Promise.all(this.#readers)
  }

  /** Resolves when all loops have ended. */
  async ended(): Promise<void> {
    await Promise.all([...this.#readers, ...this.#keepers])
  }

  #startOrdered(leases: Leases, unread: UnreadWatch): void {
    const { capacity, streams, waiting, stopping: signal, ending } = this.#parts
    const group = (key: string) => streams.group(key)
    this.#read(() => readInOrder({ ...this.#reader(unread), leases, group, room: capacity.roomOf }))
    this.#keep(() => leases.keep())
    // An ordered worker sets nothing aside, but an unordered worker of this group may have done so before.
    const held = (all: readonly ConsumerGroup[]) => all.filter(({ stream }) => leases.get(stream))
    const left = { ...this.#left, groups: () => held(waiting.groups) }
    this.#read(() => waiting.take({ ...left, groups: () => held(streams.groups), signal }))
    this.#read(() => claimPending({ ...left, signal }))
    this.#keep(() => heartbeat({ ...left, signal: ending }))
  }

  #startUnordered(unread: UnreadWatch): void {
    const { capacity, streams, waiting, stopping: signal, ending } = this.#parts
    const groups = () => streams.groups
    const all = { ...this.#left, groups: () => [...streams.groups, ...waiting.groups] }
    this.#read(() => readGroups({ ...this.#reader(unread), groups, capacity }))
    this.#read(() => claimPending({ ...all, signal }))
    this.#read(() => waiting.take({ ...this.#left, groups, signal }))
    this.#keep(() => heartbeat({ ...all, signal: ending }))
  }

  /** For the loop that reads new entries. */
  #reader(unread: UnreadWatch) {
    const { worker, reading, ensure, onRead, stopping } = this.#parts
    return { worker, link: reading, ensure, onRead, unread, signal: stopping, roomBytes: () => worker.payloadRoom }
  }

  /** For the loops that take entries which were left, or set aside. */
  get #left() {
    const { worker, asking, capacity, settings } = this.#parts
    const { roomForLeft: room, wantedLeft: wanted, releaseSurplus } = capacity
    return { worker, link: asking, claimAfter: settings.claimAfter, room, wanted, releaseSurplus }
  }

  #watchPool(): Promise<void> {
    const { settings, execution, log, metrics, worker, ending } = this.#parts
    return watchPool({
      isBusy: () => worker.scheduler.running >= settings.concurrency,
      waiting: () => execution.database.waitingOthers(),
      onStarved: () => metrics.poolStarved(),
      warn: (waiting) =>
        log.warn(
          { waiting, running: worker.scheduler.running, oldestRunningSeconds: worker.oldestRunningSeconds },
          'handlers wait for a connection of the pool while all of them run: a handler must use tx, not the pool, or the pool must be larger than concurrency',
        ),
      signal: ending,
    })
  }

  #read(loop: () => Promise<void>): void {
    this.#readers.push(keepRunning(this.#parts.log, this.#parts.stopping, loop))
  }

  #keep(loop: () => Promise<void>): void {
    this.#keepers.push(keepRunning(this.#parts.log, this.#parts.ending, loop))
  }
}
