import { compareIds, type EntryId } from '../../event/entry-id.js'
import { deadKey, waitingKey } from '../../event/names.js'
import { sqlState } from '../../postgres/client/transaction.js'
import { forgetMoved, loadMoved, movedStreams } from '../../postgres/state/moved-events.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { readEventIds, readStreamEnd } from '../../redis/streams/repair.js'
import type { GroupFloor } from '../../redis/streams/trim.js'
import type { Logger } from '../../telemetry/log.js'
import type { StateStore } from '../confirm/state-store.js'
import type { KnownGroups } from './known-groups.js'
import { recordMoved } from './moved-events.js'

/** Milliseconds between two looks at which moved events are finished; fewer where less is kept. */
const LOOK_EVERY_MS = 600_000
const MIN_LOOK_MS = 1_000
/** With more dead letters and waiting events nothing is forgotten: their ids are held in memory while one looks. */
const MAX_PRESENT = 100_000
/** Events of a stream that are looked at once more. */
const MAX_GONE = 10_000

const INSUFFICIENT_PRIVILEGE = '42501'

export interface MovedMarksOptions {
  stateStore: StateStore
  groups: Pick<KnownGroups, 'of' | 'advance'>
  log: Logger
}

/**
 * The rows of `outrider.moved_event`: recorded while an event is a dead letter, waits, or was put back to the end of its stream; forgotten
 * once it is none of that any more.
 *
 *     one look     neither dead nor waiting; it may be in the stream again, at or before the last entry L
 *     a later one  every group has finished what comes up to L, and it was not recorded again since: forgotten
 *
 * What a repair then does not put back is an event that every group has processed or discarded.
 */
export class MovedMarks {
  readonly #options: MovedMarksOptions
  /** Streams that have rows. */
  readonly #marked = new Set<string>()
  /** By stream, events that were neither dead nor waiting, with the last entry of the stream then. */
  readonly #gone = new Map<string, Map<string, EntryId>>()
  readonly #dueAt = new Map<string, number>()
  #isPermitted = true

  constructor(options: MovedMarksOptions) {
    this.#options = options
  }

  /** Loads which streams have rows. */
  async load(): Promise<void> {
    const { stateStore } = this.#options
    const keys = await stateStore.inTurn((postgres) => movedStreams(postgres, stateStore.lineage.lineage))
    for (const key of keys) this.#marked.add(key)
  }

  /** See `recordMoved`. */
  record(client: RedisClient, key: string): Promise<boolean> {
    const { stateStore, groups } = this.#options
    return recordMoved(client, stateStore, key, groups, (ids) => {
      if (ids.length > 0) this.#marked.add(key)
      for (const id of ids) this.#gone.get(key)?.delete(id)
    })
  }

  /** `retention`: of the stream, in milliseconds. */
  isDue(key: string, now: number, retention: number | undefined): boolean {
    if (!this.#isPermitted || !this.#marked.has(key) || (this.#dueAt.get(key) ?? 0) > now) return false
    this.#dueAt.set(key, now + Math.min(LOOK_EVERY_MS, Math.max(MIN_LOOK_MS, retention ?? LOOK_EVERY_MS)))
    return true
  }

  /**
   * Forgets events that are finished. `floors`: of all groups that are known, as they were before; `isSound`: whether the stream has
   * everything that it should have, asked once its events are read.
   */
  async forget(
    client: RedisClient,
    key: string,
    floors: readonly GroupFloor[],
    isSound: () => Promise<boolean>,
  ): Promise<void> {
    if (!(await this.record(client, key))) return
    const present = await this.#present(client, key)
    if (present === undefined) return
    const { last } = await readStreamEnd(client, key)
    if (last === '' || !(await isSound())) return
    try {
      await this.#forgetFinished(key, present, last, floors)
    } catch (error) {
      if (sqlState(error) !== INSUFFICIENT_PRIVILEGE) throw error
      this.#isPermitted = false
      this.#options.log.warn({ err: error }, NOT_PERMITTED)
    }
  }

  async #forgetFinished(
    key: string,
    present: ReadonlySet<string>,
    last: EntryId,
    floors: readonly GroupFloor[],
  ): Promise<void> {
    const { stateStore } = this.#options
    const { lineage } = stateStore.lineage
    const gone = this.#gone.get(key) ?? new Map<string, EntryId>()
    this.#gone.set(key, gone)
    let left = 0
    for (let after = ''; ; ) {
      const page = await stateStore.inTurn((postgres) => loadMoved(postgres, lineage, key, after))
      if (page.length === 0) break
      const finished = page.filter((id) => isFinished(id, { present, gone, last, floors }))
      left += page.length
      if (finished.length > 0) {
        const forgotten = await stateStore.inTurn((postgres) => forgetMoved(postgres, stateStore.own, key, finished))
        // A gap was opened meanwhile, or another session leads.
        if (forgotten === 0) return
        left -= forgotten
        for (const id of finished) gone.delete(id)
      }
      after = page.at(-1) as string
    }
    if (left === 0) this.#marked.delete(key)
    if (gone.size === 0) this.#gone.delete(key)
  }

  /** The ids of all that groups have as dead letters, or waiting; undefined where there are too many. In the order in which events move on. */
  async #present(client: RedisClient, key: string): Promise<Set<string> | undefined> {
    const { stateStore, groups } = this.#options
    const names = [...groups.of(key)].map(({ name }) => name)
    const present = new Set<string>()
    for (const keyOf of [waitingKey, deadKey]) {
      for (const name of names) {
        for await (const ids of readEventIds(client, keyOf(key, name), stateStore.lineage.source)) {
          for (const id of ids) present.add(id)
          if (present.size > MAX_PRESENT) return undefined
        }
      }
    }
    return present
  }
}

interface Known {
  present: ReadonlySet<string>
  gone: Map<string, EntryId>
  last: EntryId
  floors: readonly GroupFloor[]
}

/** Notes an event that is gone for the first time. */
function isFinished(id: string, { present, gone, last, floors }: Known): boolean {
  const since = gone.get(id)
  if (present.has(id)) gone.delete(id)
  else if (since !== undefined) return floors.every(({ floor }) => compareIds(floor, since) > 0)
  else if (gone.size < MAX_GONE) gone.set(id, last)
  return false
}

const NOT_PERMITTED =
  'outrider.moved_event grows: the role of the relay may not delete from it; `outrider check` has the statement'
