import { pause } from '../base/backoff.js'
import type { RedisClient } from '../redis/client/connect.js'
import type { ConsumerGroup } from '../redis/streams/consumer-group.js'
import type { ConsumerState, GroupState } from '../redis/streams/group-replies.js'
import type { Database } from './inbox/database.js'
import { PRUNE_MARGIN, prune } from './inbox/inbox.js'
import type { ConsumerMetrics } from './metrics.js'
import type { ConsumerLogger, ConsumerSettings } from './options.js'
import { removedConsumers } from './read/removed-consumers.js'
import type { UnreadWatch } from './read/unread-watch.js'
import { isRefusal, type ReconnectingClient, StoppedError } from './redis/reconnecting-client.js'

export interface MaintenanceParts {
  settings: ConsumerSettings
  database: Database
  link: ReconnectingClient
  log: ConsumerLogger
  metrics: Pick<ConsumerMetrics, 'removedPending'>
  groups(): readonly ConsumerGroup[]
  /** The waiting streams that exist, as groups. */
  waiting(): readonly ConsumerGroup[]
  ensure(): Promise<void>
  unread: UnreadWatch
  signal: AbortSignal
}

const PRUNE_EVERY = 60_000
/** Between two batches of a prune, so that it never is the only thing that the database does. */
const PRUNE_PAUSE = 50
const LOOK_EVERY = 10_000
/** Where `claimAfter` is short, silent consumers go sooner. */
const CLAIMS_BETWEEN_LOOKS = 10
/** A name with nothing pending that was not heard of for so long is no worker's any more. */
const DEAD_NAME_AFTER = 3_600_000

/** Deletes what is older than the window from the inbox. */
export async function pruneInbox({ settings, database, log, signal }: MaintenanceParts): Promise<void> {
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

/** Looks now and then at what no one tells: partitions that are new, groups that are gone, names that are dead, and the lag. */
export async function refreshGroups(parts: MaintenanceParts, tell: (states: GroupState[]) => void): Promise<void> {
  const { settings, link, groups, log, signal } = parts
  const known = new Map<string, ConsumerState[]>()
  const lookEvery = Math.min(LOOK_EVERY, CLAIMS_BETWEEN_LOOKS * settings.claimAfter)
  while (!signal.aborted) {
    try {
      await parts.ensure()
      tell(await link.requestOnce((client) => statesOf(client, groups())))
      await parts.unread.look(await link.client(), groups())
      for (const group of groups()) {
        await unlessRefused(log, group, async () => {
          const consumers = await link.requestOnce((client) => group.consumers(client))
          reportRemoved(parts, group, known.get(group.key) ?? [], consumers)
          known.set(group.key, consumers)
          await link.requestOnce((client) => group.removeIdleConsumers(client, DEAD_NAME_AFTER))
        })
      }
      for (const group of parts.waiting()) {
        const remove = () => link.requestOnce((client) => group.removeIdleConsumers(client, DEAD_NAME_AFTER))
        await unlessRefused(log, group, remove)
      }
    } catch (error) {
      if (signal.aborted || error instanceof StoppedError) return
      log.debug({ err: error }, 'the consumer could not look after all of its groups; it tries again')
    }
    await pause(lookEvery * (0.75 + Math.random() / 2), signal)
  }
}

/** By two looks at a stream. */
function reportRemoved(
  { settings, log, metrics }: MaintenanceParts,
  { key }: ConsumerGroup,
  before: readonly ConsumerState[],
  now: readonly ConsumerState[],
): void {
  // Between two looks it may have become a dead name.
  const deadAfter = DEAD_NAME_AFTER - 2 * LOOK_EVERY
  for (const { name, pending } of removedConsumers(before, now, settings.claimAfter, deadAfter)) {
    metrics.removedPending(key, pending)
    log.error(
      { stream: key, removed: name, pending },
      'a consumer was removed from the group with entries pending (XGROUP DELCONSUMER): what no worker had taken over ' +
        'is lost to this group until it is set back, see OutriderConsumerRemoved in docs/alerts.md',
    )
  }
}

/** One stream that Redis refuses does not keep the others from being looked at. */
async function unlessRefused(log: ConsumerLogger, { key }: ConsumerGroup, look: () => Promise<unknown>): Promise<void> {
  try {
    await look()
  } catch (error) {
    if (!isRefusal(error)) throw error
    log.debug({ stream: key, err: error }, 'Redis refuses to look at a stream; it is tried again')
  }
}

/** The state of the group in each of its streams, without those that Redis refuses to look at. */
export async function statesOf(client: RedisClient, groups: readonly ConsumerGroup[]): Promise<GroupState[]> {
  const states = groups.map((group) =>
    group.state(client).catch((error) => {
      if (!isRefusal(error)) throw error
      return undefined
    }),
  )
  return (await Promise.all(states)).filter((state) => state !== undefined)
}
