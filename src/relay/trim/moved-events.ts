import { compareIds, type EntryId, timeOf, ZERO_ENTRY } from '../../event/entry-id.js'
import { deadKey, replayedKey, waitingKey } from '../../event/names.js'
import type { SavedGroup } from '../../postgres/state/consumer-groups.js'
import { saveMoved } from '../../postgres/state/moved-events.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { readEventIdPage, readStreamEnd } from '../../redis/streams/repair.js'
import type { StateStore } from '../confirm/state-store.js'
import type { KnownGroups } from './known-groups.js'

/** Pages of one stream behind the mark that are read at once: 10,000 entries. */
const MAX_PAGES = 50
/** After a failover of Redis the clock that gives entries their ids may be behind by so much, in milliseconds. */
const CLOCK_SKEW_MS = 60_000

/**
 * Records the events that the groups of a stream have moved out of it: until their next attempt, as dead letters, or from there to the
 * end of the stream. A repair must put them back although the stream was trimmed past their rows. Resolves with whether all are recorded;
 * else it continues the next time. `onRecorded` hears of their ids; of those of the last minute again.
 */
export async function recordMoved(
  client: RedisClient,
  stateStore: StateStore,
  key: string,
  groups: Pick<KnownGroups, 'of' | 'advance'>,
  onRecorded: (ids: readonly string[]) => void = () => {},
): Promise<boolean> {
  let isComplete = true
  for (const group of groups.of(key)) {
    // In the order in which an event moves on: one that does so meanwhile is found where it went.
    const waiting = await read(client, stateStore, waitingKey(key, group.name), group.waitingEntry)
    const dead = await read(client, stateStore, deadKey(key, group.name), group.deadEntry)
    const replayed = await read(client, stateStore, replayedKey(key, group.name), group.replayedEntry)
    const ids = [...waiting.ids, ...dead.ids, ...replayed.ids]
    await stateStore.inTurn((postgres) => saveMoved(postgres, stateStore.lineage.lineage, key, ids))
    onRecorded(ids)
    await groups.advance(group, { waitingEntry: waiting.mark, deadEntry: dead.mark, replayedEntry: replayed.mark })
    isComplete &&= waiting.isComplete && dead.isComplete && replayed.isComplete
  }
  return isComplete
}

interface Read {
  ids: string[]
  mark: SavedGroup['deadEntry']
  isComplete: boolean
}

/** `mark`: up to where it was read before. A stream that ends before it was lost, and is read as a new one. */
async function read(client: RedisClient, { lineage }: StateStore, key: string, mark: EntryId): Promise<Read> {
  const { last } = await readStreamEnd(client, key)
  if (last === '' || last === mark) return { ids: [], mark: last === '' ? ZERO_ENTRY : mark, isComplete: true }
  const isNew = mark === ZERO_ENTRY || compareIds(last, mark) < 0
  let from = isNew ? '-' : `${Math.max(0, timeOf(mark) - CLOCK_SKEW_MS)}-0`
  const ids: string[] = []
  for (let newPages = 0; newPages < MAX_PAGES; ) {
    const read = await readEventIdPage(client, key, lineage.source, from)
    ids.push(...read.ids)
    if (read.last === undefined) return { ids, mark: last, isComplete: true }
    if (isNew || compareIds(read.last, mark) > 0) newPages++
    from = `(${read.last}`
  }
  return { ids, mark: from.slice(1), isComplete: false }
}
