import { backoff, pause } from '../backoff.js'
import type { Head } from '../event/head.js'
import { type Position, ZERO_POSITION } from '../event/position.js'
import { inBatches } from '../in-batches.js'
import { type AppendReply, append, appendBatch, batchArguments, loadAppend, removeHead } from '../redis/append.js'
import { closeRedis, type RedisClient } from '../redis/connect.js'
import { classifyRedis, classifyRedisError } from '../redis/errors.js'
import { type Batch, countEvent, Lane, takeEvent } from './lane.js'
import { Loss } from './loss.js'
import { type RejectedRow, type Rejection, rejectEvent } from './rejection.js'
import { type HeadOwnership, openHead } from './sink/head-ownership.js'

/**
 * Appends events to their streams: a lane for each stream, batches chained within a lane, several on their way at once.
 *
 * It lives through faults of Redis in epochs. An epoch is one connection; whatever goes wrong ends it: the connection
 * is destroyed, so that no late reply can meet a later command, and what was in flight counts as unknown. The next one
 * probes every head: if each is at or past what it last acknowledged, everything unacknowledged is sent again, and what
 * had been applied is skipped. If not, only the saved heads can tell what is lost: `lost` is called and the session ends.
 *
 * A database may have many thousands of streams, most of which nothing uses. Of an idle one only the position is kept that
 * its head must have reached: it is probed with the others, and looked at before it is used again.
 */
export interface PublisherOptions extends HeadOwnership {
  limits: { batchEvents: number; batchBytes: number }
  /** A stream that was not used for so long, in milliseconds, is idle; a minute by default. */
  idleAfterMs?: number
  /** How long after an exhausted stream was refused it is tried again, in milliseconds; a minute by default. */
  readmitAfterMs?: number
  /** Milliseconds after which a command without a reply fails; undefined: as usual. */
  connect(commandTimeout?: number): Promise<RedisClient>
  /** What an epoch needs before it begins. */
  prepare(client: RedisClient): Promise<void>
  /** Events were appended, or found to be there: `count` of a transaction. */
  done(transaction: number, count: number): void
  /** These cannot be appended. Resolves when they are kept as incidents, and counted as done. */
  reject(rejections: Rejection[], transactions: number[]): Promise<void>
  /** Something that must not be was found; nothing more is done. */
  failed(error: unknown): void
  /** Nothing more can be done in this session. */
  lost(loss: Loss): void
  /** Bytes that wait or are in flight have become fewer. */
  drained(): void
  observe: PublisherObserver
}

export interface PublisherObserver {
  appended(lane: Lane, batch: Batch, reply: AppendReply, milliseconds: number): void
  /** A row that would be rejected now is in the stream already. */
  known(): void
  /** An epoch ended, and why; undefined when one began, and Redis takes what waits. */
  blocked(reason: string | undefined, message: string): void
}

/** The row that was read last. It is looked at only where it may matter: the next row may be in its place. */
export interface ReadRow {
  readonly position: Position
  readonly eventId: string | null
}

/** Batches of one lane on their way at once: enough to keep Redis busy while replies travel. */
const WINDOW = 3
/** No reply for so long, in milliseconds: the connection is as good as lost. */
const REPLY_DEADLINE = 5_000
/** What the deadline may grow to on a link that is too slow for a batch, one time-out after the other. */
const LONGEST_DEADLINE = 120_000
/** Probes of streams where nothing flows, a tick; and probes at once when an epoch begins. */
const PROBES = 200
const IDLE_AFTER_MS = 60_000
/** An exhausted stream answers every probe, and its next refusal would end the epoch of all others. */
const READMIT_AFTER_MS = 60_000
/** What the id of a row takes in memory until the heads are known. */
const EARLY_BYTES = 256
/** So many ids of rows that may be a head's own are kept once the saved heads are known. */
const MAX_EARLY = 1_000

export class Publisher {
  /** The streams that are not idle. */
  readonly lanes = new Map<string, Lane>()
  /** Bytes of rows that wait or are in flight. */
  bytes = 0
  /** Events that wait or are in flight. */
  events = 0
  readonly #options: PublisherOptions
  readonly #idleAfterMs: number
  readonly #readmitAfterMs: number
  /** The position that the head of each idle stream must have reached. */
  readonly #idle = new Map<string, Position>()
  readonly #stop = new AbortController()
  /** The connection of the running epoch. */
  #client: RedisClient | undefined
  /** Since events were last appended: a Redis that answers, but refuses, is not asked again at once. */
  #faults = 0
  /** An epoch began, and it is not known yet whether Redis takes events: it may answer and refuse every write. */
  #unproven = false
  #deadline = REPLY_DEADLINE
  #repliedAt = 0
  #recovering: Promise<void> | undefined
  /** Nothing is appended before: rows wait. */
  #released = false
  #rejecting: Promise<void> = Promise.resolve()
  #read: ReadRow = { position: ZERO_POSITION, eventId: null }
  /** The ids of rows that were read and may be a head's own, by position: all until the saved heads are known, then the last. */
  readonly #early = new Map<Position, string>()
  /** The position of the last row whose id was dropped from them. */
  #forgotten: Position = ZERO_POSITION
  /** Rows that come from here on were not published before this session. */
  #readsAnew = false
  /** Streams whose head lies above the start of their chain, by the head's position: its row is still to come again. */
  readonly #unmet = new Map<Position, Lane[]>()
  readonly #dirty = new Set<Lane>()
  #scheduled = false
  readonly #probes = this.#everyStream()

  constructor(options: PublisherOptions) {
    this.#options = options
    this.#idleAfterMs = options.idleAfterMs ?? IDLE_AFTER_MS
    this.#readmitAfterMs = options.readmitAfterMs ?? READMIT_AFTER_MS
  }

  /** Begins the first epoch. Resolves when Redis answers. */
  start(): Promise<void> {
    this.#recovering = this.#recover()
    return this.#recovering
  }

  /** The heads of all streams that were published to are taken over and sound: what waits is appended from here on. */
  release(): void {
    this.#released = true
    this.#hold(0, -EARLY_BYTES * this.#early.size)
    this.#forgetEarly()
    for (const lane of this.lanes.values()) this.#pump(lane)
  }

  /** The connection of the running epoch; undefined between two. */
  get client(): RedisClient | undefined {
    return this.#client
  }

  lane(key: string): Lane {
    let lane = this.lanes.get(key)
    if (lane === undefined) {
      lane = new Lane(key, this.#options.lineage, this.#options.session, this.#idle.get(key))
      this.#idle.delete(key)
      this.lanes.set(key, lane)
    }
    return lane
  }

  /** The batch to push the next event's arguments to; `added` must follow before anything else happens. */
  batch(lane: Lane, bytes: number): Batch {
    const { batchEvents, batchBytes } = this.#options.limits
    return lane.batch(batchEvents, batchBytes, bytes)
  }

  /** No event came of it after all. An empty batch must not be sent: it has no position to build on. */
  unused(lane: Lane, batch: Batch): void {
    if (batch.events > 0) return
    lane.batches.splice(lane.batches.indexOf(batch), 1)
    batch.args.release()
  }

  added(lane: Lane, batch: Batch, transaction: number, bytes: number, committedAt: number): void {
    countEvent(batch, transaction, bytes, committedAt)
    this.bytes += bytes
    this.events += 1
    this.#schedule(lane)
  }

  /**
   * A row was read, wherever it is going now. At the position of a head and with its event's id, it proves that the head
   * is this database's own, also where the row itself will not reach that stream again.
   */
  meet(row: ReadRow): void {
    this.#read = row
    if (this.#readsAnew && this.#unmet.size === 0) return
    const { position, eventId } = row
    if (!this.#readsAnew) this.#readAgain(position, eventId ?? '')
    if (this.#unmet.size === 0) return
    for (const lane of this.#unmet.get(position) ?? []) {
      if (lane.head.position === position && lane.head.event === eventId) lane.meet()
    }
    this.#unmet.delete(position)
  }

  #readAgain(position: Position, eventId: string): void {
    if (!this.#mayBeHead(position)) {
      this.#readsAnew = true
      return
    }
    this.#early.set(position, eventId)
    if (this.#released) this.#forgetEarly()
    else this.#hold(0, EARLY_BYTES)
  }

  #forgetEarly(): void {
    for (const position of this.#early.keys()) {
      if (this.#early.size <= MAX_EARLY) return
      this.#early.delete(position)
      this.#forgotten = position
    }
  }

  /** A row that cannot be published by today's limits and mapping; without a lane, no stream can be named for it. */
  reject(lane: Lane | undefined, row: RejectedRow): void {
    this.#hold(1, row.bytes)
    if (lane === undefined || lane.state === 'refused') this.#keep(lane, [row])
    else if (lane.state === 'open') this.#decide(lane, row)
    else {
      lane.undecided.push(row)
      this.#schedule(lane)
    }
  }

  #schedule(lane: Lane): void {
    this.#dirty.add(lane)
    if (this.#scheduled) return
    this.#scheduled = true
    // After everything that this read of the socket brought: a busy stream makes large batches, a quiet one small ones.
    setImmediate(() => {
      this.#scheduled = false
      for (const dirty of this.#dirty) this.#pump(dirty)
      this.#dirty.clear()
    })
  }

  /** Counts rows that wait to be kept among those that wait here; negative numbers when they no longer do. */
  #hold(events: number, bytes: number): void {
    this.events += events
    this.bytes += bytes
    if (bytes < 0 || events < 0) this.#options.drained()
    if (this.events === 0) this.#proven()
  }

  /** The head of a stream that was published to before is this session's now, and the chain begins at `chain`. */
  tookOver(key: string, head: Head, chain: Position): void {
    if (chain === head.position && !this.lanes.has(key)) this.#idle.set(key, chain)
    else this.open(this.lane(key), head, chain)
  }

  /** A lane whose head is known to be this session's. */
  open(lane: Lane, head: Head, chain: Position): void {
    lane.head = head
    lane.acknowledged = chain
    lane.rewind()
    lane.state = 'open'
    if (this.#early.get(head.position) === head.event || this.#isForgotten(lane, chain)) lane.meet()
    else if (chain < head.position && head.position > this.#read.position) {
      this.#unmet.set(head.position, [...(this.#unmet.get(head.position) ?? []), lane])
    }
    for (const row of lane.undecided.splice(0)) this.#decide(lane, row)
    this.#pump(lane)
  }

  /**
   * The head's own row came again, and its id was dropped. It may have gone to another stream, as today's mapping has it: then
   * only the head's session says that it is this database's own, as for a head that does not come again. Where it waits in
   * this queue, Redis compares the two.
   */
  #isForgotten({ head }: Lane, chain: Position): boolean {
    return chain < head.position && head.position <= this.#forgotten
  }

  /** Looks after deadlines, and after the streams where nothing flows: a loss is found there too. */
  tick(now: number): void {
    const client = this.#client
    if (client === undefined || !this.#released) return
    for (const lane of this.lanes.values()) {
      const oldest = lane.inFlight > 0 ? lane.batches[0] : undefined
      if (oldest && now - this.#waitingSince(oldest) > this.#deadline) {
        this.broken(client, `no reply for ${this.#deadline} ms`, 'redis_timeout')
        return
      }
      if (lane.isUnused && now - lane.usedAt >= this.#idleAfterMs) this.#retire(lane)
    }
    this.#probeStreams(client)
  }

  /** A stream without an event has nothing that it could lose. */
  #retire(lane: Lane): void {
    this.lanes.delete(lane.key)
    if (lane.acknowledged !== ZERO_POSITION) this.#idle.set(lane.key, lane.acknowledged)
  }

  /** Resolves when nothing waits any more, or the signal says so. */
  async drain(signal: AbortSignal): Promise<boolean> {
    while (this.events > 0 && !signal.aborted && !this.#stop.signal.aborted) await pause(5, signal)
    return this.events === 0
  }

  /** Ends the epoch for good. */
  close(): void {
    this.#stop.abort()
    if (this.#client) closeRedis(this.#client)
    this.#client = undefined
  }

  #mayBeHead(position: Position): boolean {
    return this.#options.chain({ position, event: '', entry: '' }, ZERO_POSITION) !== undefined
  }

  #pump(lane: Lane): void {
    const client = this.#client
    if (client === undefined || !this.#released || lane.batches.length + lane.undecided.length === 0) return
    if (lane.state === 'open') {
      while (lane.keeping === 0 && lane.inFlight < WINDOW && lane.inFlight < lane.batches.length)
        this.#send(client, lane)
    } else if (lane.state === 'refused') {
      this.#rejectAll(lane)
    } else if (lane.state === 'new') {
      void this.#open(client, lane)
    }
  }

  #send(client: RedisClient, lane: Lane): void {
    const batch = lane.batches[lane.inFlight] as Batch
    lane.inFlight += 1
    batch.sentAt = performance.now()
    const previous = lane.sent
    // It only rises: a replay may lie below the head that the chain began at.
    const { last } = batch.args
    if (last > lane.sent) lane.sent = last
    appendBatch(client, batch.args, previous)
      .then(
        (reply) => this.#replied(client, lane, batch, reply),
        (error: Error) => this.broken(client, error.message),
      )
      .catch((error) => this.#fail(error))
  }

  #replied(client: RedisClient, lane: Lane, batch: Batch, reply: AppendReply): void {
    if (client !== this.#client) return
    if (reply.status === 'OK') {
      if (lane.batches[0] !== batch)
        throw new Error(`Expected the reply to the oldest batch of ${lane.key}, found another.`)
      this.#faults = 0
      this.#learnDeadline(batch)
      this.#proven()
      lane.batches.shift()
      lane.inFlight -= 1
      lane.head = reply.head
      // One text for all that is the same position: there may be 100,000 streams.
      const { position } = reply.head
      const last = batch.args.last === position ? position : batch.args.last
      if (last > lane.acknowledged) lane.acknowledged = last
      if (lane.sent === last) lane.sent = last
      batch.args.release()
      lane.moved = true
      lane.usedAt = performance.now()
      this.#options.observe.appended(lane, batch, reply, performance.now() - batch.sentAt)
      this.#done(batch)
      this.#pump(lane)
    } else if (reply.status === 'ERROR') {
      this.#refused(client, lane, batch, reply)
    } else if (reply.status === 'INVALID') {
      this.#lose(new Loss('HALT', lane.key, reply, lane.acknowledged))
    } else {
      this.#lose(new Loss(reply.status, lane.key, reply, lane.acknowledged))
    }
  }

  /** Redis would not take a batch, or only its beginning. Batches behind it found their chain broken: nothing overtook. */
  #refused(client: RedisClient, lane: Lane, batch: Batch | undefined, reply: AppendReply): void {
    const verdict = classifyRedis(reply.error)
    if (verdict.fate === 'halt') {
      this.#lose(new Loss('HALT', lane.key, reply, lane.acknowledged))
      return
    }
    if (verdict.fate === 'row' && batch) {
      const event = takeEvent(batch, reply.appended + reply.skipped)
      if (batch.events === 0) lane.batches.splice(lane.batches.indexOf(batch), 1)
      this.#keep(lane, [rejectEvent(lane.key, event, verdict.reason, batch.events === 0 ? batch.bytes : 0)])
    } else if (verdict.fate === 'stream') {
      if (isGone(reply, lane.head.position)) {
        this.#lose(new Loss('BEHIND', lane.key, reply, lane.acknowledged))
        return
      }
      if (batch) this.#split(lane, batch, reply)
      lane.refuse(verdict.reason, performance.now())
    }
    this.broken(client, reply.error)
  }

  /** The beginning of a batch is in the stream; only the rest of it is refused. */
  #split(lane: Lane, batch: Batch, reply: AppendReply): void {
    const applied = reply.appended + reply.skipped
    for (let i = 0; i < applied; i++) this.#options.done(takeEvent(batch, 0).transaction, 1)
    if (applied === 0) return
    lane.head = reply.head
    // Redis found the chain whole up to there before it appended: a stream that is had again continues from it.
    if (reply.head.position > lane.acknowledged) lane.acknowledged = reply.head.position
    lane.moved = true
    this.#hold(-applied, 0)
  }

  #done(batch: Batch): void {
    for (let i = 0; i < batch.transactions.length; i++) {
      this.#options.done(batch.transactions[i] as number, batch.counts[i] as number)
    }
    this.#hold(-batch.events, -batch.bytes)
  }

  /** Everything that waits in a refused lane becomes incidents. */
  #rejectAll(lane: Lane): void {
    const rows = lane.undecided.splice(0)
    for (const batch of lane.batches.splice(0)) {
      const taken: RejectedRow[] = []
      // From the end: each event taken from the front would move all that is behind it.
      while (batch.events > 0) {
        const event = takeEvent(batch, batch.events - 1)
        taken.push(rejectEvent(lane.key, event, lane.refusal, batch.events === 0 ? batch.bytes : 0))
      }
      rows.push(...taken.reverse())
    }
    this.#keep(lane, rows)
  }

  /**
   * What lies at or below the head when it is taken over was published, or kept, by an earlier session, whose limits and
   * mapping may have been others. At the head's own position it must be the head's event: the head may be a copy's.
   */
  #decide(lane: Lane, row: RejectedRow): void {
    const { position, eventId } = row.rejection
    const { head } = lane
    if (position > head.position) {
      this.#keep(lane, [row])
      return
    }
    if (position === head.position) {
      if (eventId !== head.event) {
        const found = { head, session: this.#options.session, error: '' }
        this.#lose(new Loss('DIVERGED', lane.key, found, lane.acknowledged))
        return
      }
      lane.meet()
    }
    // Before its transaction is confirmed, the head that covers it is saved.
    lane.moved = true
    this.#options.observe.known()
    this.#options.done(row.transaction, 1)
    this.#hold(-1, -row.bytes)
  }

  /** In turn, so that a broken Postgres cannot pile up statements. */
  #keep(lane: Lane | undefined, rows: RejectedRow[]): void {
    if (lane) lane.keeping += rows.length
    this.#rejecting = this.#rejecting.then(async () => {
      await this.#options.reject(
        rows.map(({ rejection }) => rejection),
        rows.map(({ transaction }) => transaction),
      )
      this.#hold(-rows.length, -rows.reduce((sum, { bytes }) => sum + bytes, 0))
      if (lane === undefined) return
      lane.keeping -= rows.length
      this.#pump(lane)
    })
    // What could not be kept ends the session; the rows come again in the next one.
    this.#rejecting.catch((error) => this.#fail(error))
  }

  /** The first event of a stream in this session, or after it was idle: whose head is there? */
  async #open(client: RedisClient, lane: Lane): Promise<void> {
    lane.state = 'opening'
    const known = lane.acknowledged !== ZERO_POSITION
    try {
      // A head that was this session's before must still be: another session's is not taken over again.
      const reply = known
        ? await this.#probe(client, lane.key, lane.acknowledged)
        : await openHead(client, lane.key, this.#options)
      // Another epoch has begun: it asks for itself, and may be at it.
      if (client !== this.#client) return
      if (reply.status === 'OK') {
        const chain = known ? lane.acknowledged : (this.#options.chain(reply.head, ZERO_POSITION) as Position)
        this.open(lane, reply.head, chain)
      } else if (reply.status === 'BEHIND' && !known) {
        // A head that no saved head knows: none of its events is confirmed, so all of them come again.
        await removeHead(client, lane.key, lane.lineage, reply)
        if (client !== this.#client) return
        lane.state = 'new'
        this.#pump(lane)
      } else if (reply.status === 'ERROR') {
        lane.state = 'new'
        const verdict = classifyRedis(reply.error)
        if (isGone(reply, lane.acknowledged)) {
          this.#lose(new Loss('BEHIND', lane.key, reply, lane.acknowledged))
        } else if (verdict.fate === 'stream') {
          lane.refuse(verdict.reason, performance.now())
          this.#pump(lane)
        } else if (verdict.fate === 'retry') this.broken(client, reply.error)
        else this.#lose(new Loss('HALT', lane.key, reply, lane.acknowledged))
      } else {
        this.#lose(
          new Loss(reply.status as 'OTHER' | 'BEHIND' | 'DIVERGED' | 'BEYOND', lane.key, reply, lane.acknowledged),
        )
      }
    } catch (error) {
      if (client !== this.#client) return
      lane.state = 'new'
      this.broken(client, (error as Error).message)
    }
  }

  /**
   * All streams in turn, again and again: each a lane, or the key of an idle one. A turn ends after as many as there were when
   * it began: each stream that is used again, or no longer, goes to the end, and there may be more of them than are probed.
   */
  *#everyStream(): Generator<Lane | string, never> {
    for (;;) {
      yield* first(this.lanes.size, this.lanes.values())
      yield* first(this.#idle.size, this.#idle.keys())
    }
  }

  /** Finds a loss where nothing flows. */
  #probeStreams(client: RedisClient): void {
    const streams = this.lanes.size + this.#idle.size
    if (streams === 0) this.#keepAlive(client)
    for (let i = 0; i < Math.min(PROBES, streams); i++) {
      const stream = this.#probes.next().value
      if (typeof stream === 'string') this.#probeIdle(client, stream)
      else if (stream.inFlight === 0 && (stream.state === 'open' || stream.state === 'refused')) {
        this.#probeLane(client, stream)
      }
    }
  }

  /** Has the head of a stream, which must be this session's, reached `expected`? */
  #probe(client: RedisClient, key: string, expected: Position): Promise<AppendReply> {
    return append(client, batchArguments(key, this.#options.lineage, this.#options.session), expected)
  }

  #probeIdle(client: RedisClient, key: string): void {
    this.#verifyHead(client, key, this.#idle.get(key) as Position).catch((error: Error) => {
      if (client !== this.#client) return
      if (error instanceof Loss) this.#lose(error)
      // A refusal says nothing about what the stream holds: the next epoch asks again.
      else this.broken(client, error.message)
    })
  }

  #probeLane(client: RedisClient, lane: Lane): void {
    const expected = lane.acknowledged
    this.#probe(client, lane.key, expected).then(
      (reply) => {
        if (client !== this.#client) return
        if (reply.status === 'OK') {
          if (lane.state === 'refused') this.#readmit(lane, reply.head)
        } else if (reply.status === 'ERROR') {
          if (lane.state === 'open') this.#refused(client, lane, undefined, reply)
        } else this.#lose(new Loss(reply.status as 'OTHER', lane.key, reply, expected))
      },
      (error: Error) => this.broken(client, error.message),
    )
  }

  /** Redis has the stream again. One that was open continues its chain; of another the head is still to be taken over. */
  #readmit(lane: Lane, head: Head): void {
    const exhausted = lane.refusal === 'stream_exhausted'
    if (exhausted && performance.now() - lane.refusedAt < this.#readmitAfterMs) return
    if (lane.head.position === ZERO_POSITION) lane.state = 'new'
    else this.open(lane, head, lane.acknowledged)
  }

  /** Before the first stream there is nothing to probe, and a server with a `timeout` would close a silent connection. */
  #keepAlive(client: RedisClient): void {
    client.ping().catch((error: Error) => {
      // A PING that is not permitted was answered, too.
      if (error.name !== 'ReplyError') this.broken(client, error.message)
    })
  }

  /** Ends the epoch: something about its connection, or a reply on it, was not as it should be. */
  broken(client: RedisClient, message: string, reason = classifyRedis(message).reason): void {
    if (client !== this.#client || this.#stop.signal.aborted) return
    this.#client = undefined
    this.#unproven = false
    this.#faults += 1
    if (reason === 'redis_timeout') this.#deadline = Math.min(this.#deadline * 2, LONGEST_DEADLINE)
    closeRedis(client)
    this.#options.observe.blocked(reason, message)
    this.#recovering = this.#recover()
  }

  #fail(error: unknown): void {
    if (this.#stop.signal.aborted) return
    this.close()
    this.#options.failed(error)
  }

  #lose(loss: Loss): void {
    if (this.#stop.signal.aborted) return
    this.close()
    this.#options.lost(loss)
  }

  async #recover(): Promise<void> {
    const { signal } = this.#stop
    for (; !signal.aborted; this.#faults++) {
      let client: RedisClient | undefined
      try {
        if (this.#faults > 0) await pause(backoff(this.#faults, 100, 2_000), signal)
        if (signal.aborted) return
        client = await this.#options.connect(this.#deadline > REPLY_DEADLINE ? LONGEST_DEADLINE : undefined)
        await this.#options.prepare(client)
        await loadAppend(client)
        await this.#verify(client)
        if (signal.aborted) {
          closeRedis(client)
          return
        }
        this.#begin(client)
        return
      } catch (error) {
        if (client) closeRedis(client)
        if (signal.aborted) return
        if (error instanceof Loss) return this.#lose(error)
        this.#options.observe.blocked(classifyRedisError(error).reason, (error as Error).message)
      }
    }
  }

  /** Is everything that was acknowledged in this session still there? */
  async #verify(client: RedisClient): Promise<void> {
    const open = [...this.lanes.values()].filter((lane) => lane.state === 'open')
    await inBatches(open, PROBES, async (lane) => {
      lane.head = await this.#verifyHead(client, lane.key, lane.acknowledged)
    })
    await inBatches(this.#idle, PROBES, ([key, position]) => this.#verifyHead(client, key, position))
  }

  /** Rejects with a Loss where the head has not reached `expected`, and with what Redis says where it refuses to answer. */
  async #verifyHead(client: RedisClient, key: string, expected: Position): Promise<Head> {
    const reply = await this.#probe(client, key, expected)
    if (reply.status === 'OK') return reply.head
    if (reply.status !== 'ERROR') throw new Loss(reply.status as 'OTHER', key, reply, expected)
    if (isGone(reply, expected)) throw new Loss('BEHIND', key, reply, expected)
    throw new Error(reply.error)
  }

  #begin(client: RedisClient): void {
    this.#client = client
    client.once('close', () => this.broken(client, 'Redis closed the connection', 'redis_unreachable'))
    this.#unproven = true
    if (this.events === 0) this.#proven()
    for (const lane of this.lanes.values()) {
      if (lane.state === 'opening') lane.state = 'new'
      lane.rewind()
      this.#pump(lane)
    }
  }

  /** Replies come in order: a batch waits for its own only since the one before it came. */
  #waitingSince(batch: Batch): number {
    return Math.max(batch.sentAt, this.#repliedAt)
  }

  /** On a slow link the deadline stays at twice what a reply takes; elsewhere it soon is the usual one again. */
  #learnDeadline(batch: Batch): void {
    const now = performance.now()
    const took = now - this.#waitingSince(batch)
    this.#deadline = Math.max(REPLY_DEADLINE, Math.min(this.#deadline, 2 * took))
    this.#repliedAt = now
  }

  #proven(): void {
    if (!this.#unproven) return
    this.#unproven = false
    this.#options.observe.blocked(undefined, '')
  }
}

/** What was published before is not there any more: the key holds another type. */
const isGone = ({ error }: Pick<AppendReply, 'error'>, expected: Position): boolean =>
  classifyRedis(error).reason === 'wrong_type' && expected !== ZERO_POSITION

function* first<T>(count: number, items: Iterable<T>): Generator<T> {
  let left = count
  for (const item of items) {
    if (left-- === 0) return
    yield item
  }
}
