import { setTimeout as pause } from 'node:timers/promises'
import { seeded, write } from '../../testkit/oracle/writer.js'
import { until } from '../../testkit/services/index.js'
import { type HealingEnv, type HealingRedis, STREAMS, SUBJECTS } from './healing-env.js'

const WRITERS = 8

/** How long a transaction stays open, at most, in milliseconds: longer than it takes until a repair has its snapshot. */
export const MAX_LINGER_MS = 8_000

/** Writers that commit events until they are stopped: with savepoints, with rollbacks, some open for seconds, some prepared. */
export class Writers {
  committed = 0
  readonly #stop = new AbortController()
  readonly #all: Promise<unknown>

  /** In milliseconds: between the transactions of a writer, and how long some of them stay open, at most. */
  constructor(env: HealingEnv<HealingRedis>, seed: number, { every, linger }: { every: number; linger: number }) {
    this.#all = Promise.all(
      Array.from({ length: WRITERS }, async (_, writer) => {
        const client = await env.database.connect()
        try {
          await write(client, {
            ...{ writer, streams: STREAMS, subjects: SUBJECTS, events: Number.POSITIVE_INFINITY },
            payload: (random) => JSON.stringify({ n: random(), text: 'æ'.repeat(random() * 200) }),
            random: seeded(seed * 100 + writer),
            committed: async (count) => {
              this.committed += count
              await pause(every, undefined, { signal: this.#stop.signal }).catch(() => {})
            },
            signal: this.#stop.signal,
            lingering: { share: 0.04, ms: linger },
          })
        } finally {
          await client.end()
        }
      }),
    )
    this.#all.catch(() => {})
  }

  /** Waits until so many more events were committed. */
  async more(events: number): Promise<void> {
    const goal = this.committed + events
    await until(() => this.committed >= goal, { message: () => `${goal} events committed, of ${this.committed}` })
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#all
  }
}
