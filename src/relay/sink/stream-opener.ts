import type { Head } from '../../event/head.js'
import { type Position, ZERO_POSITION } from '../../event/position.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { classifyRedis } from '../../redis/client/errors.js'
import { type AppendedReply, type HeadReport, type RefusedReply, removeHead } from '../../redis/streams/append.js'
import { type HeadOwnership, type OpenReply, openHead, probeHead } from './head-ownership.js'
import { isReplaced, LossError, lossOf } from './loss.js'
import type { ReconnectingRedis } from './reconnecting-redis.js'
import type { StreamQueue } from './stream-queue.js'

/**
 * open         the head is this session's, and the chain begins at `chain`
 * unconfirmed  the stream lacks what its head says, and no head is saved: none of its events is confirmed, all are read again. A session
 *              that was frozen may have saved it since
 * refused      Redis refuses this stream
 * fault        Redis refuses to answer for now
 * lost         the session cannot continue
 */
export type Opening =
  | { outcome: 'open'; head: Head; chain: Position }
  | { outcome: 'unconfirmed'; found: HeadReport }
  | { outcome: 'refused'; reason: string }
  | { outcome: 'fault'; message: string }
  | { outcome: 'lost'; loss: LossError }

/** Streams that are opened at once: each takes 5 KB in memory until Redis has answered, and as many may be new as rows are in flight. */
const MAX_OPENING = 500

export interface StreamOpenerOptions {
  ownership: HeadOwnership
  redis: ReconnectingRedis
  /** The head is this session's now. */
  open(queue: StreamQueue, head: Head, chain: Position): void
  /** The queue may continue. */
  pump(queue: StreamQueue): void
  lost(loss: LossError): void
}

/** Opens a stream for its first event in this session, or after it was idle. */
export class StreamOpener {
  readonly #options: StreamOpenerOptions
  /** The connection that `#opening` and `#waiting` are of. */
  #client: RedisClient | undefined
  #opening = 0
  /** Their turn comes when others are open. */
  readonly #waiting = new Set<StreamQueue>()

  constructor(options: StreamOpenerOptions) {
    this.#options = options
  }

  open(client: RedisClient, queue: StreamQueue): void {
    if (client !== this.#client) {
      this.#client = client
      this.#opening = 0
      this.#waiting.clear()
    }
    if (this.#opening >= MAX_OPENING) {
      this.#waiting.add(queue)
      return
    }
    this.#opening += 1
    void this.#open(client, queue).finally(() => {
      if (client === this.#client) this.#ended()
    })
  }

  #ended(): void {
    this.#opening -= 1
    for (const queue of this.#waiting) {
      if (this.#opening >= MAX_OPENING) return
      this.#waiting.delete(queue)
      this.#options.pump(queue)
    }
  }

  async #open(client: RedisClient, queue: StreamQueue): Promise<void> {
    const { redis, ownership } = this.#options
    queue.ask()
    try {
      let opening = await openStream(client, queue, ownership)
      // If another epoch has begun it asks for itself, and may be at it.
      if (!redis.isCurrent(client)) return
      if (opening.outcome === 'unconfirmed') {
        const saved = (await ownership.savedPosition(queue.key)) ?? ZERO_POSITION
        if (saved === ZERO_POSITION) await removeHead(client, queue.key, queue.lineage, opening.found)
        else opening = { outcome: 'lost', loss: new LossError('BEHIND', queue.key, opening.found, saved) }
        if (!redis.isCurrent(client)) return
      }
      this.#opened(client, queue, opening)
    } catch (error) {
      if (!redis.isCurrent(client)) return
      queue.forget()
      redis.broken(client, (error as Error).message)
    }
  }

  #opened(client: RedisClient, queue: StreamQueue, opening: Opening): void {
    const { redis, open, pump, lost } = this.#options
    switch (opening.outcome) {
      case 'open':
        open(queue, opening.head, opening.chain)
        break
      case 'unconfirmed':
        queue.forget()
        pump(queue)
        break
      case 'refused':
        queue.refuse(opening.reason, performance.now())
        pump(queue)
        break
      case 'fault':
        queue.forget()
        redis.broken(client, opening.message)
        break
      case 'lost':
        lost(opening.loss)
    }
  }
}

/** Whose head is there? */
async function openStream(client: RedisClient, queue: StreamQueue, ownership: HeadOwnership): Promise<Opening> {
  const { key, acknowledged } = queue
  if (acknowledged === ZERO_POSITION) return classifyOpening(key, await openHead(client, key, ownership), ownership)
  // A head that was this session's before must still be: another session's is not taken over again.
  const reply = await probeHead(client, key, acknowledged, ownership)
  if (reply.status === 'OK') return { outcome: 'open', head: reply.head, chain: acknowledged }
  if (reply.status === 'ERROR') return classifyRefusal(key, reply, acknowledged)
  return { outcome: 'lost', loss: lossOf(key, reply, acknowledged) }
}

/** The first time in a session. Pure. */
export function classifyOpening(key: string, reply: OpenReply, ownership: Pick<HeadOwnership, 'chain'>): Opening {
  if (reply.status === 'OK') return beginChain(key, reply, ownership)
  if (reply.status === 'ERROR') return classifyRefusal(key, reply, ZERO_POSITION)
  if (reply.status === 'BEHIND') return { outcome: 'unconfirmed', found: reply }
  return { outcome: 'lost', loss: lossOf(key, reply, ZERO_POSITION) }
}

function beginChain(key: string, reply: AppendedReply, ownership: Pick<HeadOwnership, 'chain'>): Opening {
  const chain = ownership.chain(reply.head, ZERO_POSITION)
  if (chain === undefined) return { outcome: 'lost', loss: new LossError('BEYOND', key, reply, ZERO_POSITION) }
  return { outcome: 'open', head: reply.head, chain }
}

function classifyRefusal(key: string, reply: RefusedReply, expected: Position): Opening {
  if (isReplaced(reply.error, expected)) {
    return { outcome: 'lost', loss: new LossError('BEHIND', key, reply, expected) }
  }
  const { policy, reason } = classifyRedis(reply.error)
  if (policy === 'stream') return { outcome: 'refused', reason }
  if (policy === 'retry') return { outcome: 'fault', message: reply.error }
  return { outcome: 'lost', loss: new LossError('HALT', key, reply, expected) }
}
