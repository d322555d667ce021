import type { Head } from '../../src/event/head.js'
import { type Position, ZERO_POSITION } from '../../src/event/position.js'
import type { AppendReply } from '../../src/redis/streams/append.js'
import type { TransactionTracker } from '../../src/relay/confirm/transaction-tracker.js'
import type { HeadLook } from '../../src/relay/sink/head-ownership.js'
import { BEFORE_REPAIR, CUT_OFF } from '../../src/relay/sink/head-ownership.js'
import { MetHeads } from '../../src/relay/sink/met-heads.js'
import type { ServerWal } from '../../src/relay/sink/server-wal.js'
import type { Event } from './redis.js'
import type { Session } from './session.js'
import type { World } from './world.js'

/** Work in steps: between two of them the relay may be killed or frozen, and everything else continues. */
export type Steps<T = void> = Generator<undefined, T, undefined>

/** Why a session ended; the next one begins again. */
export class SessionEnd extends Error {
  override name = 'SessionEnd'
}

/** The connection to Redis broke: whether the command ran is not known. */
export class Broken extends Error {
  override name = 'Broken'
}

interface Waiting extends Event {
  transaction: number | undefined
}

class Queue {
  state: 'new' | 'open' = 'new'
  head: Head = { position: ZERO_POSITION, event: '', entry: '0-0' }
  hasMoved = false
  readonly waiting: Waiting[] = []

  constructor(
    readonly key: string,
    public acknowledged: Position,
  ) {}

  open(head: Head, chain: Position): void {
    this.head = head
    this.acknowledged = chain
    this.state = 'open'
  }

  meet(): void {
    if (this.head.position > this.acknowledged) this.acknowledged = this.head.position
    this.hasMoved = true
  }
}

/** As src/relay/sink/publisher.ts, with one batch in flight at a time. */
export class Publisher {
  readonly queues = new Map<string, Queue>()
  readonly #idle = new Map<string, Position>()
  readonly #world: World
  readonly #session: Session
  readonly #tracker: TransactionTracker | undefined
  readonly metHeads: MetHeads
  #connection = -1
  appended = 0

  constructor(world: World, session: Session, tracker?: TransactionTracker) {
    this.#world = world
    this.#session = session
    this.#tracker = tracker
    const mayBeHead = (position: Position) =>
      this.#chain({ position, event: '', entry: '' }, ZERO_POSITION) !== undefined
    this.metHeads = new MetHeads(mayBeHead, () => {})
  }

  get isIdle(): boolean {
    for (const { waiting } of this.queues.values()) if (waiting.length > 0) return false
    return true
  }

  /** Streams that are used or were taken over. */
  get keys(): string[] {
    return [...this.queues.keys(), ...this.#idle.keys()]
  }

  /** Up to where the stream must be there; `ZERO_POSITION`: it may lack everything. */
  expected(key: string): Position {
    return this.queues.get(key)?.acknowledged ?? this.#idle.get(key) ?? ZERO_POSITION
  }

  #chain(head: Head, saved: Position): Position | undefined {
    return this.#world.decisions.chainStart(head, saved, this.#session.server as ServerWal)
  }

  /** One command to Redis: it runs when this continues. */
  *request<T>(command: () => T): Steps<T> {
    yield
    const { redis, random, isCalm } = this.#world
    if (this.#connection !== redis.connection) throw new Broken('The connection was lost.')
    const reply = command()
    if (!isCalm && random.chance(0.01)) {
      this.#connection = -1
      throw new Broken('The reply was lost.')
    }
    return reply
  }

  /** A new connection, over which everything that was acknowledged is still there. */
  *reconnect(): Steps {
    for (;;) {
      yield
      this.#connection = this.#world.redis.connection
      try {
        for (const queue of this.queues.values()) {
          if (queue.state === 'open') queue.head = (yield* this.#verify(queue.key, queue.acknowledged)).head
        }
        for (const [key, position] of this.#idle) yield* this.#verify(key, position)
        return
      } catch (error) {
        if (!(error instanceof Broken)) throw error
      }
    }
  }

  disconnect(): void {
    this.#connection = -1
  }

  queue(key: string): Queue {
    let queue = this.queues.get(key)
    if (!queue) {
      queue = new Queue(key, this.#idle.get(key) ?? ZERO_POSITION)
      this.#idle.delete(key)
      this.queues.set(key, queue)
    }
    return queue
  }

  add(key: string, event: Event, transaction?: number): void {
    this.queue(key).waiting.push({ ...event, transaction })
  }

  open(queue: Queue, head: Head, chain: Position): void {
    queue.open(head, chain)
    this.metHeads.opened(queue, chain)
  }

  tookOver(key: string, head: Head, saved: Position): void {
    const chain = this.#chain(head, saved)!
    if (chain === head.position && !this.queues.has(key)) this.#idle.set(key, chain)
    else this.open(this.queue(key), head, chain)
  }

  /** Appends the next batch of some stream; false: nothing waits. */
  *next(): Steps<boolean> {
    const waiting = [...this.queues.values()].filter((queue) => queue.waiting.length > 0)
    const queue = waiting[this.#world.random.int(waiting.length)]
    if (!queue) return false
    if (queue.state === 'new') yield* this.#open(queue)
    else yield* this.#send(queue)
    return true
  }

  /** Is everything of this stream still there? */
  *probe(key: string): Steps {
    const queue = this.queues.get(key)
    if (queue?.state === 'new') return
    yield* this.#verify(key, this.expected(key))
  }

  *#verify(key: string, expected: Position): Steps<AppendReply> {
    const { id } = this.#session
    const reply = yield* this.request(() => this.#world.redis.append(key, id, '', expected))
    if (reply.status !== 'OK') throw this.#session.loss(key, reply)
    return reply
  }

  *#send(queue: Queue): Steps {
    const { redis, random } = this.#world
    const batch = queue.waiting.slice(0, 1 + random.int(3))
    const reply = yield* this.request(() => {
      for (const { row } of batch) row.isStray ||= this.#session.isCutOff
      return redis.append(queue.key, this.#session.id, '', queue.acknowledged, batch)
    })
    if (reply.status !== 'OK') throw this.#session.loss(queue.key, reply)
    queue.waiting.splice(0, batch.length)
    queue.head = reply.head
    const { position } = batch.at(-1)!
    if (position > queue.acknowledged) queue.acknowledged = position
    queue.hasMoved = true
    this.appended += batch.length
    for (const { transaction } of batch) if (transaction !== undefined) this.#tracker?.done(transaction, 1)
  }

  /** src/relay/sink/stream-opener.ts */
  *#open(queue: Queue): Steps {
    const { key, acknowledged } = queue
    if (acknowledged !== ZERO_POSITION) {
      const { head } = yield* this.#verify(key, acknowledged)
      this.open(queue, head, acknowledged)
      return
    }
    const { redis, decisions } = this.#world
    const look = yield* this.look(key, ZERO_POSITION, null)
    let { reply } = look
    if (look.owner === 'beyond') throw this.#session.loss(key, reply, 'BEYOND')
    if (reply.status === 'OK') {
      const found = reply.session
      reply = yield* this.request(() => redis.append(key, this.#session.id, found, ZERO_POSITION))
      if (reply.status === 'OTHER') return
    }
    const chain = (head: Head, saved: Position) => this.#chain(head, saved)
    const opening = decisions.classifyOpening(key, reply, { chain })
    if (opening.outcome === 'open') this.open(queue, opening.head, opening.chain)
    else if (opening.outcome === 'unconfirmed') {
      yield
      if (!decisions.isUnsaved(this.#world.state.heads.get(key)?.position)) throw this.#session.loss(key, reply)
      yield* this.request(() => redis.removeHead(key, opening.found))
    } else throw this.#session.loss(key, reply)
  }

  /** src/relay/sink/head-ownership.ts, lookAtHead */
  *look(key: string, saved: Position, repairedBy: number | null): Steps<HeadLook> {
    const { redis, decisions, state } = this.#world
    const reply = yield* this.request(() => redis.append(key, '', '', saved))
    const { session, head } = reply
    const number = state.sessions.get(session)
    const isKnown = session === '' || session === this.#session.id
    if (!isKnown && number === undefined) throw this.#session.foreign(key, 'a session that was never recorded')
    const owner = isKnown || this.#chain(head, saved) !== undefined ? 'known' : 'beyond'
    const look: HeadLook = { key, saved, owner, reply }
    if (reply.status !== 'OK' || owner !== 'known') return look
    if (decisions.isCutOff(head.position, saved))
      return { ...look, reply: { ...reply, status: 'BEHIND', error: CUT_OFF } }
    if (repairedBy === null || !decisions.isBeforeRepair(number, repairedBy)) return look
    return { ...look, reply: { ...reply, status: 'BEHIND', error: BEFORE_REPAIR } }
  }
}
