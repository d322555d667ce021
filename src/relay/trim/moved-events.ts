import { compareIds, type EntryId, timeOf, ZERO_ENTRY } from '../../event/entry-id.js'
import { deadKey, waitingKey } from '../../event/names.js'
import type { SavedGroup } from '../../postgres/state/consumer-groups.js'
import { saveMoved } from '../../postgres/state/moved-events.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { readEventIdPage, readStreamEnd } from '../../redis/streams/repair.js'
import type { StateStore } from '../confirm/state-store.js'
import type { KnownGroups } from './known-groups.js'

/** Pages of one stream that are read at once: 10,000 entries. */
const MAX_PAGES = 50
/** After a failover of Redis the clock that gives entries their ids may be behind by so much, in milliseconds. */
const CLOCK_SKEW_MS = 60_000

/**
 * Records the events that the groups of a stream have moved out of it, as dead letters or until their next attempt: Redis alone has
 * them, and a repair must put them back although the stream was trimmed past them. Resolves with whether all are recorded; else it
 * continues the next time.
 */
export async function recordMoved(
  client: RedisClient,
  stateStore: StateStore,
  key: string,
  groups: KnownGroups,
): Promise<boolean> {
  let isComplete = true
  for (const group of groups.of(key)) {
    const dead = await read(client, stateStore, deadKey(key, group.name), group.deadEntry)
    const waiting = await read(client, stateStore, waitingKey(key, group.name), group.waitingEntry)
    await stateStore.inTurn((postgres) =>
      saveMoved(postgres, stateStore.lineage.lineage, key, [...dead.ids, ...waiting.ids]),
    )
    await groups.advance(group, { deadEntry: dead.mark, waitingEntry: waiting.mark })
    isComplete &&= dead.isComplete && waiting.isComplete
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
  for (let page = 0; page < MAX_PAGES; page++) {
    const read = await readEventIdPage(client, key, lineage.source, from)
    ids.push(...read.ids)
    if (read.last === undefined) return { ids, mark: last, isComplete: true }
    from = `(${read.last}`
  }
  return { ids, mark: from.slice(1), isComplete: false }
}
