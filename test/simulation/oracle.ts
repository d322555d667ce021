import type { Row } from './postgres.js'
import type { Entry } from './redis.js'
import type { World } from './world.js'

/**
 * What the streams must hold in the end. Allowed, as docs/healing.md says:
 * an event twice whose commit waited for a standby when a repair began or a checkpoint was taken, or whose stream lost its head before
 * it was confirmed, or before a relay opened the stream that had begun when it was not confirmed;
 * late, whose commit waited for a standby when a repair began, or which the publication left out;
 * in the order of `seq`, where both were put back and `track_commit_timestamp` is off.
 */
export class Oracle {
  readonly #world: World

  constructor(world: World) {
    this.#world = world
  }

  *violations(): Generator<string> {
    const { postgres, redis, state } = this.#world
    const found = new Set<Row>()
    for (const [key, { entries }] of redis.data.streams) {
      yield* this.#ofStream(key, entries, found)
      // What is confirmed is never sent again, so no one would notice that Redis loses the stream.
      if (entries.length > 0 && !state.heads.has(key)) yield `no saved head of ${key}`
    }
    for (const { outcome, rows } of postgres.wal) {
      if (outcome !== 'committed') continue
      for (const row of rows) if (!found.has(row)) yield `lost ${row.id} of ${row.key}`
    }
  }

  *#ofStream(key: string, entries: readonly Entry[], found: Set<Row>): Generator<string> {
    const before = new Map<number, Entry[]>()
    for (const entry of entries) {
      const { row } = entry
      if (row.transaction.outcome !== 'committed' || row.key !== key) yield `phantom ${row.id} in ${key}`
      if (found.has(row)) {
        if (row.transaction.heldAt.size === 0 && !row.isForgotten && !row.isStray) yield `doubled ${row.id} in ${key}`
        continue
      }
      found.add(row)
      const earlier = before.get(row.subject) ?? []
      const later = earlier.find((other) => isAfter(other.row, row) && !this.#mayBeLate(entry, other))
      if (later) yield `out of order ${row.id} in ${key} after ${later.row.id}`
      earlier.push(entry)
      before.set(row.subject, earlier)
    }
  }

  /** May it come after an event that was committed later? */
  #mayBeLate({ row, position }: Entry, later: Entry): boolean {
    if (row.hidden || row.transaction.heldAt.has('repair')) return true
    const { postgres } = this.#world
    const arePutBack = (BigInt(`0x${position.slice(9, 25)}`) & BigInt(`0x${later.position.slice(9, 25)}`) & 7n) === 7n
    return !postgres.tracksCommits && arePutBack && later.row.seq < row.seq
  }
}

const isAfter = (one: Row, other: Row): boolean =>
  one.transaction === other.transaction ? one.seq > other.seq : one.transaction.committed > other.transaction.committed
