import { streamKey } from '../../src/event/names.js'
import { partitionOf } from '../../src/event/partition.js'
import { until } from '../../testkit/services/index.js'
import { insertEvent } from './event-row.js'
import { type HealingEnv, type HealingRedis, PARTITIONS } from './healing-env.js'

interface Target {
  stream: string
  key: string
  subject: string
}

/** A subject of its own for each key. */
const TARGETS: readonly Target[] = Object.entries(PARTITIONS).flatMap(([stream, count]) => {
  if (count === 0) return [{ stream, key: stream, subject: `probe of ${stream}` }]
  return Array.from({ length: count }, (_, partition) => {
    let n = 0
    while (partitionOf(`probe ${n} of ${stream}`, count) !== partition) n += 1
    return { stream, key: streamKey(stream, partition), subject: `probe ${n} of ${stream}` }
  })
})

/** An event in every stream, committed now: once all have arrived, what came before has been found. */
export class Probe {
  readonly #env: HealingEnv<HealingRedis>
  readonly #since = Date.now() - 1_000
  /** Id by key. */
  readonly #left = new Map<string, string>()

  private constructor(env: HealingEnv<HealingRedis>) {
    this.#env = env
  }

  static async send(env: HealingEnv<HealingRedis>): Promise<Probe> {
    const probe = new Probe(env)
    for (const { stream, key, subject } of TARGETS) {
      probe.#left.set(key, await insertEvent(env.postgres, stream, subject))
    }
    return probe
  }

  async hasArrived(): Promise<boolean> {
    for (const [key, id] of this.#left) {
      const entries = await this.#env.redis.client.xrange(key, String(this.#since), '+')
      if (entries.some(([, fields]) => fields[fields.indexOf('id') + 1] === id)) this.#left.delete(key)
    }
    return this.#left.size === 0
  }
}

/** Until every stream has an event, and its saved head: the slot alone would heal no loss. */
export async function untilHeadsAreSaved(env: HealingEnv<HealingRedis>): Promise<void> {
  const probe = await Probe.send(env)
  await until(() => probe.hasArrived())
  await until(async () => (await env.postgres.query('select from outrider.head')).rowCount === TARGETS.length)
}
