import type { Head } from '../../event/head.js'
import { type Position, ZERO_POSITION } from '../../event/position.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { type AppendReply, appendBatch, loadAppend } from '../../redis/streams/append.js'
import type { Batch } from './batch.js'
import { HeadProbe } from './head-probe.js'
import { type LossError, lossOf } from './loss.js'
import { MetHeads, type ReadRow } from './met-heads.js'
import { PendingEvents } from './pending-events.js'
import type { PublisherOptions } from './publisher-options.js'
import { ReconnectingRedis } from './reconnecting-redis.js'
import { Refusals } from './refusals.js'
import type { RejectedRow } from './rejection.js'
import { RowRejecter } from './row-rejecter.js'
import { StreamOpener } from './stream-opener.js'
import type { StreamQueue } from './stream-queue.js'
import { StreamQueues } from './stream-queues.js'

/** Batches of one queue on their way at once: enough to keep Redis busy while replies travel. */
const WINDOW = 3

/**
 * Appends events to their streams: a queue for each stream, batches chained within a queue, several on their way at once.
 *
 *     batch, added ── once per read of the socket ──> pump ──> send ──> replied ──> pump
 *
 * It continues through faults of Redis in epochs (see `ReconnectingRedis`). When one begins, every head is probed: if each is at or
 * past what was acknowledged last, everything unacknowledged is sent again, and what had been applied is skipped. If not,
 * only the saved heads show what is lost: `lost` is called and the session ends.
 */
export class Publisher {
  readonly #options: PublisherOptions
  readonly #stop = new AbortController()
  readonly #streams: StreamQueues
  readonly #pending: PendingEvents
  readonly #redis: ReconnectingRedis
  readonly #opener: StreamOpener
  readonly #probe: HeadProbe
  readonly #metHeads: MetHeads
  readonly #rejecter: RowRejecter
  readonly #refusals: Refusals
  /** Nothing is appended before: rows wait. */
  #released = false
  readonly #dirty = new Set<StreamQueue>()
  #scheduled = false
  /** Queues that are to be open without an event, and who waits for it. */
  readonly #awaited = new Map<StreamQueue, (() => void)[]>()

  constructor(options: PublisherOptions) {
    this.#options = options
    this.#streams = new StreamQueues(options)
    this.#pending = new PendingEvents({ fewer: () => options.drained(), empty: () => this.#redis.proven() })
    this.#redis = new ReconnectingRedis({
      signal: this.#stop.signal,
      connect: options.connect,
      prepare: (client) => this.#prepare(client),
      began: () => this.#began(),
      blocked: options.observe.blocked,
      lost: (loss) => this.#lose(loss),
    })
    this.#metHeads = new MetHeads(
      (position) => options.chain({ position, event: '', entry: '' }, ZERO_POSITION) !== undefined,
      (bytes) => this.#pending.count(0, bytes),
    )
    const shared = {
      ...{ ...options, ownership: options, streams: this.#streams, pending: this.#pending, redis: this.#redis },
      open: (queue: StreamQueue, head: Head, chain: Position) => this.open(queue, head, chain),
      pump: (queue: StreamQueue) => this.#pump(queue),
      lost: (loss: LossError) => this.#lose(loss),
      failed: (error: unknown) => this.#fail(error),
    }
    this.#opener = new StreamOpener(shared)
    this.#rejecter = new RowRejecter(shared)
    this.#refusals = new Refusals({ ...shared, rejecter: this.#rejecter })
    this.#probe = new HeadProbe({ ...shared, refusals: this.#refusals })
  }

  /** The streams that are not idle. */
  get queues(): ReadonlyMap<string, StreamQueue> {
    return this.#streams.used
  }

  /** Every stream whose head is this session's, and the position that it has reached at least. */
  reached(): Iterable<[key: string, position: Position]> {
    return this.#streams.reached()
  }

  /** Bytes in memory of rows that wait or are in flight, with their batches. */
  get bytes(): number {
    return this.#pending.bytes
  }

  /** Events that wait or are in flight. */
  get events(): number {
    return this.#pending.events
  }

  /** The connection of the running epoch; undefined between two. */
  get client(): RedisClient | undefined {
    return this.#redis.client
  }

  /** Begins the first epoch. Resolves when Redis answers. */
  start(): Promise<void> {
    return this.#redis.start()
  }

  /** Resolves with the connection of the running epoch, or of the next one; undefined if the signal aborts before that. */
  connected(signal: AbortSignal): Promise<RedisClient | undefined> {
    return this.#redis.connected(signal)
  }

  /** The heads of all streams that were published to are taken over and sound: what waits is appended from here on. */
  release(): void {
    this.#released = true
    this.#metHeads.release()
    for (const queue of this.queues.values()) this.#pump(queue)
  }

  queue(key: string): StreamQueue {
    return this.#streams.get(key)
  }

  /**
   * Makes the head of the stream this session's, before there is an event for it. Resolves with its queue, which is open, or refused by
   * Redis; it may be another one a moment later. Rejects when the signal aborts.
   */
  async opened(key: string, signal: AbortSignal): Promise<StreamQueue> {
    for (;;) {
      signal.throwIfAborted()
      const queue = this.queue(key)
      if (queue.state === 'open' || queue.state === 'refused') return queue
      await new Promise<void>((resolve, reject) => {
        const aborted = () => {
          this.#forgetAwaiting(queue, known)
          reject(signal.reason)
        }
        signal.addEventListener('abort', aborted, { once: true })
        const known = () => {
          signal.removeEventListener('abort', aborted)
          resolve()
        }
        this.#awaited.set(queue, [...(this.#awaited.get(queue) ?? []), known])
        this.#pump(queue)
      })
    }
  }

  /** The batch to push the next event's arguments to; `added` must follow before anything else happens. */
  batch(queue: StreamQueue, bytes: number): Batch {
    const { batchEvents, batchBytes } = this.#options.limits
    return queue.batch(batchEvents, batchBytes, bytes)
  }

  /** The row became no event. An empty batch must not be sent: it has no position to build on. */
  unused(queue: StreamQueue, batch: Batch): void {
    if (batch.events === 0) queue.discard(batch)
  }

  added(queue: StreamQueue, batch: Batch, transaction: number, bytes: number, committedAt: number): void {
    this.#pending.add(batch.add(transaction, bytes, committedAt))
    this.#schedule(queue)
  }

  /** A row was read, whichever stream it is for. */
  meet(row: ReadRow): void {
    this.#metHeads.meet(row)
  }

  /** A row that cannot be published by today's limits and mapping; without a queue, no stream can be named for it. */
  reject(queue: StreamQueue | undefined, row: RejectedRow): void {
    this.#pending.count(1, row.bytes)
    if (queue === undefined || queue.state === 'refused') this.#rejecter.keep(queue, [row])
    else if (queue.state === 'open') this.#rejecter.decide(queue, row)
    else {
      queue.defer(row)
      this.#schedule(queue)
    }
  }

  /** The head of a stream that was published to before is this session's now, and the chain begins at `chain`. */
  tookOver(key: string, head: Head, chain: Position): void {
    if (chain === head.position && !this.queues.has(key)) this.#streams.addIdle(key, chain)
    else this.open(this.queue(key), head, chain)
  }

  /** A queue whose head is known to be this session's. */
  open(queue: StreamQueue, head: Head, chain: Position): void {
    queue.open(head, chain)
    this.#metHeads.opened(queue, chain)
    for (const row of queue.takeUndecided()) this.#rejecter.decide(queue, row)
    this.#pump(queue)
  }

  /** The wait for it has ended: an epoch that begins need not open it. */
  #forgetAwaiting(queue: StreamQueue, known: () => void): void {
    const others = this.#awaited.get(queue)?.filter((each) => each !== known) ?? []
    if (others.length > 0) this.#awaited.set(queue, others)
    else this.#awaited.delete(queue)
  }

  #tell(queue: StreamQueue): void {
    const awaiting = this.#awaited.get(queue) ?? []
    this.#awaited.delete(queue)
    for (const known of awaiting) known()
  }

  /** Looks after deadlines, and after the streams where nothing flows: a loss is found there too. */
  tick(now: number): void {
    const { client } = this
    if (client === undefined || !this.#released) return
    for (const queue of this.queues.values()) {
      const oldest = queue.inFlight > 0 ? queue.batches[0] : undefined
      if (oldest && this.#redis.endIfOverdue(client, oldest.sentAt, now)) return
    }
    this.#streams.retireUnused(now)
    this.#probe.tick(client)
  }

  /** Ends the epoch: something about its connection, or a reply on it, was not as it should be. */
  broken(client: RedisClient, message: string, reason?: string): void {
    this.#redis.broken(client, message, reason)
  }

  /** Resolves with true when nothing waits, with false if the signal aborts or the publisher closes before that. */
  drain(signal: AbortSignal): Promise<boolean> {
    return this.#pending.drain(AbortSignal.any([signal, this.#stop.signal]))
  }

  /** Ends the epoch; no other one begins. */
  close(): void {
    this.#stop.abort()
    this.#redis.close()
  }

  #schedule(queue: StreamQueue): void {
    this.#dirty.add(queue)
    if (this.#scheduled) return
    this.#scheduled = true
    // After everything that this read of the socket brought: a busy stream makes large batches, a quiet one small ones.
    setImmediate(() => {
      this.#scheduled = false
      for (const dirty of this.#dirty) this.#pump(dirty)
      this.#dirty.clear()
    })
  }

  #pump(queue: StreamQueue): void {
    const { client } = this
    const isAwaited = this.#awaited.has(queue)
    if (client === undefined || !this.#released || !(queue.hasWork || isAwaited)) return
    if (isAwaited && (queue.state === 'open' || queue.state === 'refused')) this.#tell(queue)
    if (queue.state === 'open') {
      while (queue.isSendable && queue.inFlight < WINDOW) this.#send(client, queue)
    } else if (queue.state === 'refused') {
      this.#rejecter.keepAll(queue)
    } else if (queue.state === 'new') {
      this.#opener.open(client, queue)
    }
  }

  #send(client: RedisClient, queue: StreamQueue): void {
    const previous = queue.sent
    const batch = queue.send(performance.now())
    appendBatch(client, batch.args, previous)
      .then(
        (reply) => this.#replied(client, queue, batch, reply),
        (error: Error) => this.broken(client, error.message),
      )
      .catch((error) => this.#fail(error))
  }

  #replied(client: RedisClient, queue: StreamQueue, batch: Batch, reply: AppendReply): void {
    if (!this.#redis.isCurrent(client)) return
    if (reply.status === 'OK' && batch === queue.batches[0]) {
      const now = performance.now()
      queue.acknowledge(batch, reply.head, now)
      this.#redis.appended(batch.sentAt, now)
      this.#options.observe.appended(queue, batch, reply, now - batch.sentAt)
      this.#done(batch)
      this.#pump(queue)
    } else if (reply.status === 'ERROR') {
      this.#refusals.refused(client, queue, batch, reply)
    } else if (reply.status === 'OK' || isOvertaken(reply, queue)) {
      this.broken(client, `A batch of stream ${queue.key} has overtaken an earlier one.`, 'redis_moved')
    } else {
      this.#lose(lossOf(queue.key, reply, queue.acknowledged))
    }
  }

  #done(batch: Batch): void {
    const { transactions, counts } = batch
    for (let i = 0; i < transactions.length; i++) {
      this.#options.done(transactions[i] as number, counts[i] as number)
    }
    this.#pending.count(-batch.events, -batch.heldBytes)
  }

  async #prepare(client: RedisClient): Promise<void> {
    await this.#options.prepare(client)
    await loadAppend(client)
    await this.#probe.verifyAll(client)
  }

  #began(): void {
    if (this.events === 0) this.#redis.proven()
    for (const queue of this.queues.values()) {
      queue.reconnect()
      this.#pump(queue)
    }
  }

  #fail(error: unknown): void {
    if (this.#stop.signal.aborted) return
    this.close()
    this.#options.failed(error)
  }

  #lose(loss: LossError): void {
    if (this.#stop.signal.aborted) return
    this.close()
    this.#options.lost(loss)
  }
}

/**
 * Nothing that was acknowledged is lost: the batches before this one are still on their way. A cluster moves a stream to another node,
 * and the client sends them on one by one.
 */
const isOvertaken = ({ status, error, head }: AppendReply, { acknowledged }: StreamQueue): boolean =>
  status === 'BEHIND' && error === '' && head.position >= acknowledged
