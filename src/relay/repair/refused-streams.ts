import { ZERO_POSITION } from '../../event/position.js'
import type { SavedHead } from '../../postgres/state/heads.js'
import { classifyRedis } from '../../redis/client/errors.js'
import { HaltError, RedisFaultError } from '../errors.js'
import { unknownRedisError } from '../sink/server-wal.js'

/** Streams of a repair that Redis refuses: no event was published to them, so their rows are rejected. */
export class RefusedStreams {
  readonly #reasons = new Map<string, string>()
  readonly #incident: string

  /** `incident`: what to name in the advice. */
  constructor(incident: string) {
    this.#incident = incident
  }

  get size(): number {
    return this.#reasons.size
  }

  keys(): Iterable<string> {
    return this.#reasons.keys()
  }

  /** Undefined: not refused. */
  reasonOf(key: string): string | undefined {
    return this.#reasons.get(key)
  }

  /** Throws where the error is no matter of this stream alone, or where events were published to it before. */
  add(key: string, error: string, saved: SavedHead | undefined): void {
    const { policy, reason } = classifyRedis(error)
    if (policy === 'halt') throw new HaltError(reason, unknownRedisError(error))
    if (policy !== 'stream') throw new RedisFaultError(error)
    // Rows that were published before are no rejected ones: they are put back once the key is free.
    if (saved && saved.position !== ZERO_POSITION) throw new HaltError(reason, isTaken(key, error, this.#incident))
    this.#reasons.set(key, reason)
  }

  /** A later look was not refused. */
  delete(key: string): void {
    this.#reasons.delete(key)
  }

  /** What to throw where a stream cannot be read: nothing else reads it, and a user from before there were repairs may not be permitted to. */
  explain(error: Error): Error {
    if (classifyRedis(error.message).reason !== 'redis_noperm') return error
    return new HaltError(
      'redis_noperm',
      `Expected that the relay may read streams (XRANGE), as a repair needs, found: ${error.message}. Nothing newer is published. Add ` +
        '`+xrange` to the ACL of its user (docs/redis-acl.md), and the relay continues by itself. To leave out what is missing: ' +
        `\`outrider incidents close ${this.#incident}\`.`,
    )
  }
}

const isTaken = (key: string, error: string, incident: string): string =>
  `Expected the stream ${key}, which events were published to, found that Redis refuses it: ${error}. Nothing newer is published. Rename or ` +
  'delete what the key holds, and the relay puts its events back by itself. To leave out what is missing: ' +
  `\`outrider incidents close ${incident}\`.`
