import { pause } from '../backoff.js'
import type { RedisClient } from '../redis/connect.js'
import type { ConsumerState, Group, GroupState } from '../redis/group.js'
import type { Database } from './database.js'
import { PRUNE_MARGIN, prune } from './inbox.js'
import { type Link, StoppedError } from './link.js'
import type { ConsumerLogger, Settings } from './options.js'
import { removedConsumers } from './read/removed-consumers.js'
import type { UnreadWatch } from './read/unread-watch.js'

export interface UpkeepParts {
  settings: Settings
  database: Database
  link: Link
  log: ConsumerLogger
  groups(): readonly Group[]
  /** The waiting streams that exist, as groups. */
  waiting(): readonly Group[]
  ensure(): Promise<void>
  unread: UnreadWatch
  signal: AbortSignal
}

const PRUNE_EVERY = 60_000
/** Between two batches of a prune, so that it never is the only thing that the database does. */
const PRUNE_PAUSE = 50
const LOOK_EVERY = 10_000
/** A name with nothing pending that was not heard of for so long is nobody's any more. */
const DEAD_NAME_AFTER = 3_600_000

/** Deletes what is older than the window from the inbox. */
export async function pruneInbox({ settings, database, log, signal }: UpkeepParts): Promise<void> {
  while (!signal.aborted) {
    // Not all workers at once.
    await pause(PRUNE_EVERY * (0.5 + Math.random()), signal)
    try {
      while (!signal.aborted && (await prune(database, settings.group, settings.inboxWindow + PRUNE_MARGIN)) > 0) {
        await pause(PRUNE_PAUSE, signal)
      }
    } catch (error) {
      log.warn({ err: error }, 'the inbox could not be pruned; it is tried again')
    }
  }
}

/** Looks now and then at what nobody tells: partitions that are new, groups that are gone, names that are dead, and the lag. */
export async function look(parts: UpkeepParts, tell: (states: GroupState[]) => void): Promise<void> {
  const { settings, link, groups, log, signal } = parts
  const known = new Map<string, ConsumerState[]>()
  while (!signal.aborted) {
    try {
      await parts.ensure()
      tell(await link.once((client) => statesOf(client, groups())))
      await parts.unread.look(await link.client(), groups())
      for (const group of groups()) {
        const consumers = await link.once((client) => group.consumers(client))
        const before = known.get(group.key) ?? []
        // Between two looks it may have become a dead name.
        for (const gone of removedConsumers(before, consumers, settings.claimAfter, DEAD_NAME_AFTER - 2 * LOOK_EVERY)) {
          log.error(
            { stream: group.key, removed: gone.name, pending: gone.pending },
            'a consumer was removed from the group with entries pending (XGROUP DELCONSUMER): what no worker had taken over ' +
              'is lost to this group until it is set back, see OutriderConsumerTrimmed in docs/alerts.md',
          )
        }
        known.set(group.key, consumers)
        await link.once((client) => group.leave(client, DEAD_NAME_AFTER))
      }
      for (const group of parts.waiting()) await link.once((client) => group.leave(client, DEAD_NAME_AFTER))
    } catch (error) {
      if (signal.aborted || error instanceof StoppedError) return
      log.debug({ err: error }, 'the consumer could not look after all of its groups; it tries again')
    }
    await pause(LOOK_EVERY * (0.75 + Math.random() / 2), signal)
  }
}

/** How the group stands in each of its streams. */
export const statesOf = (client: RedisClient, groups: readonly Group[]): Promise<GroupState[]> =>
  Promise.all(groups.map((group) => group.state(client)))
