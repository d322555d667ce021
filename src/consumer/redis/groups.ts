import { partitionsKey, streamKey } from '../../event/names.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { Database } from '../inbox/database.js'
import { subscribe, subscriptions } from '../inbox/inbox.js'
import type { ConsumerLogger, ConsumerSettings } from '../options.js'
import type { ReconnectingClient } from './reconnecting-client.js'

const BEGINNING = '0'

/** The streams of a consumer with their partitions, and its group in each. */
export class ConsumerGroups {
  readonly #settings: ConsumerSettings
  readonly #database: Database
  readonly #log: ConsumerLogger
  readonly #groups = new Map<string, ConsumerGroup>()
  /** Keys by name. */
  readonly #keys = new Map<string, readonly string[]>()
  /** Those that the database knows of. */
  readonly #subscribed = new Set<string>()
  /** When the consumer began, by Redis' clock, in milliseconds: `now` for what it finds later. */
  #began: number | undefined

  constructor(settings: ConsumerSettings, database: Database, log: ConsumerLogger) {
    this.#settings = settings
    this.#database = database
    this.#log = log
  }

  get groups(): readonly ConsumerGroup[] {
    return [...this.#groups.values()]
  }

  group(key: string): ConsumerGroup | undefined {
    return this.#groups.get(key)
  }

  /** The keys of a stream, or of its partitions. */
  keys(name: string): readonly string[] {
    return this.#keys.get(name) ?? []
  }

  /**
   * Finds out what is partitioned, and makes every group that is missing: a new one where `startFrom` says, one that the
   * group has read before at the beginning, because what was delivered to it is not known any more; the inbox is.
   *
   * Rejects with what the database says, and with what `ask` does.
   */
  async ensure(ask: ReconnectingClient['request'], names: readonly string[]): Promise<void> {
    const { missing, refused } = await ask((client) => this.#look(client, names))
    await this.#make(ask, names, missing)
    if (refused) throw refused
  }

  async #make(
    ask: ReconnectingClient['request'],
    names: readonly string[],
    missing: readonly ConsumerGroup[],
  ): Promise<void> {
    const keys = names.flatMap((name) => this.keys(name))
    if (missing.length === 0 && keys.every((key) => this.#subscribed.has(key))) return
    const { group } = this.#settings
    const known = await subscriptions(this.#database, group, keys)
    for (const each of missing) await ask((client) => this.#create(client, each, !known.has(each.key)))
    // Not before they are there: another worker that starts just now would take them for lost.
    await subscribe(this.#database, group, keys)
    for (const key of keys) this.#subscribed.add(key)
    this.#began ??= await ask(timeOf)
  }

  /** The groups that are missing, and what a stream says that cannot be looked at: the others are not to wait for it. */
  async #look(
    client: RedisClient,
    names: readonly string[],
  ): Promise<{ missing: ConsumerGroup[]; refused: Error | undefined }> {
    const missing: ConsumerGroup[] = []
    let refused: Error | undefined
    for (const name of names) {
      const keys = keysOf(name, await client.get(partitionsKey(name)))
      // A number that Redis has lost is the same when it is back.
      if (keys.length >= this.keys(name).length) this.#keys.set(name, keys)
      for (const key of this.keys(name)) {
        const group = this.#groups.get(key) ?? new ConsumerGroup(key, this.#settings.group, this.#settings.name)
        try {
          if (!(await group.exists(client))) missing.push(group)
          else this.#groups.set(key, group)
        } catch (error) {
          if ((error as Error).name !== 'ReplyError') throw error
          refused = error as Error
        }
      }
    }
    return { missing, refused }
  }

  async #create(client: RedisClient, group: ConsumerGroup, isNew: boolean): Promise<void> {
    const from = isNew ? startOf(this.#settings.startFrom, this.#began) : BEGINNING
    if (await group.create(client, from)) {
      if (isNew) this.#log.info({ stream: group.key, from }, 'the group begins')
      else
        this.#log.warn(
          { stream: group.key },
          'the group was missing: it starts again, and the inbox skips what was processed',
        )
    }
    this.#groups.set(group.key, group)
  }
}

/** Milliseconds since 1970, by Redis' clock. */
const timeOf = async (client: RedisClient): Promise<number> => Number((await client.time())[0]) * 1000

function keysOf(name: string, partitions: string | null): string[] {
  if (partitions === null || !/^[1-9]\d{0,3}$/.test(partitions)) return [name]
  return Array.from({ length: Number(partitions) }, (_, n) => streamKey(name, n))
}

/** The entry behind which a new group begins. `now`: undefined for the last entry that there is. */
function startOf(startFrom: ConsumerSettings['startFrom'], now: number | undefined): string {
  if (startFrom === 'beginning') return BEGINNING
  const time = startFrom === 'now' ? now : startFrom.getTime()
  return time === undefined ? '$' : `${time - 1}-18446744073709551615`
}
