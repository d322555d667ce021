import { test as base, expect } from 'vitest'
import type { Incident } from '../../src/postgres/state/incident.js'
import { shaOf } from '../../testkit/oracle/truth.js'
import { until } from '../../testkit/services/index.js'
import { HealingEnv, type HealingRedis, STREAMS } from '../healing/healing-env.js'
import { finalOutcome, violationsOf } from '../healing/outcome.js'
import { Probe, untilHeadsAreSaved } from '../healing/probe.js'
import { Writers } from '../healing/writers.js'
import { HeldRepair } from './held-repair.js'

/** Several pages of rows, and more entries than one call reads. */
const EVENTS = 6_000
const SUBJECTS = 30

/** A relay that repairs, with writers and a consumer, whose Redis has more than one server. */
export class TopologyEnv<R extends HealingRedis> {
  readonly repair: HeldRepair
  readonly #writers: Writers

  private constructor(
    readonly healing: HealingEnv<R>,
    repair: HeldRepair,
    writers: Writers,
  ) {
    this.repair = repair
    this.#writers = writers
  }

  /** With events in every stream, which are confirmed to the slot: it will not send them again. */
  static async start<R extends HealingRedis>(redis: () => Promise<R>): Promise<TopologyEnv<R>> {
    const healing = await HealingEnv.start({ redis, tracksCommits: true, durability: 'memory' })
    const repair = await HeldRepair.prepare(await healing.database.connect())
    await insertMany(healing)
    await untilHeadsAreSaved(healing)
    const writers = new Writers(healing, 1, { every: 500, linger: 1_000 })
    await writers.more(50)
    await healing.untilConfirmed()
    return new TopologyEnv(healing, repair, writers)
  }

  get redis(): R {
    return this.healing.redis
  }

  /** Until so many more events are committed, and the slot will not send them again. */
  async confirmed(events: number): Promise<void> {
    await this.#writers.more(events)
    await this.healing.untilConfirmed()
  }

  /** Until so many more events are committed, and are in their streams. */
  async published(events: number): Promise<void> {
    await this.#writers.more(events)
    const probe = await Probe.send(this.healing)
    await until(() => probe.hasArrived(), { message: 'events to be in their streams' })
  }

  /** Nothing that is published meanwhile is confirmed to the slot. */
  async unconfirmed(work: () => Promise<void>): Promise<void> {
    const locker = await this.healing.database.connect()
    try {
      // A head is saved before that.
      await locker.query('begin; lock table outrider.head in share mode')
      await work()
    } finally {
      await locker.end()
    }
  }

  /** The streams of the gaps. */
  async lostStreams(): Promise<string[]> {
    const { rows } = await this.healing.postgres.query(
      'select distinct stream_key from outrider.gap_stream order by stream_key',
    )
    return rows.map(({ stream_key }) => stream_key)
  }

  /** How many entries these streams have. */
  async entries(keys: readonly string[]): Promise<number> {
    const lengths = await Promise.all(keys.map((key) => this.redis.client.xlen(key)))
    return lengths.reduce((sum, length) => sum + length, 0)
  }

  /** How often a repair began to put events back. */
  repairs(): number {
    return this.healing.said('repair began')
  }

  /**
   * Until every gap is closed by the relay itself and new events flow in every stream; then nothing may be lost, invented, altered
   * or out of order, and every effect is there once. Resolves with the gaps, the oldest first.
   */
  async finish(): Promise<Incident[]> {
    const { healing } = this
    let incidents: Incident[] = []
    const probe = await Probe.send(healing)
    await until(
      async () => {
        incidents = await healing.incidents({ closed: true })
        const isClosed = incidents.length > 0 && incidents.every(({ closedAt }) => closedAt !== null)
        return isClosed && (await probe.hasArrived()) && (await healing.status())?.state === 'streaming'
      },
      { timeout: 180_000, message: () => `a repair, found ${JSON.stringify(incidents)}\n${healing.describe()}` },
    )
    await this.#writers.stop()
    expect(violationsOf(await finalOutcome(healing))).toEqual([])
    for (const { kind, resolution } of incidents) {
      expect({ kind, resolution }).toEqual({
        kind: 'gap',
        resolution: expect.stringMatching(/^repaired: |^found again$/),
      })
    }
    return incidents.reverse()
  }

  async close(): Promise<void> {
    await this.#writers.stop().catch(() => {})
    await this.healing.close()
  }
}

/** With their truth, in one transaction. */
async function insertMany(healing: HealingEnv<HealingRedis>): Promise<void> {
  const data = JSON.stringify({ text: 'æ'.repeat(50) })
  await healing.postgres.query(
    `with drafts as materialized (
       select gen_random_uuid() as id, n, ($1::text[])[1 + n % ${SUBJECTS} % cardinality($1)] as stream,
              'one of many ' || n % ${SUBJECTS} as subject, 1 + n / ${SUBJECTS} as seq
         from generate_series(0, ${EVENTS - 1}) as n
     ), known as (
       insert into truth select id, -2, n, stream, subject, seq, $3 from drafts
     )
     insert into outrider.outbox (id, stream, type, subject, data)
       select id, stream, 'test.happened', subject, $2::json from drafts order by n`,
    [STREAMS, data, shaOf(data)],
  )
}

/** `start`: makes an env that is closed when the test is over. */
export const topologyTest = base.extend<{
  start<R extends HealingRedis>(redis: () => Promise<R>): Promise<TopologyEnv<R>>
}>({
  // biome-ignore lint/correctness/noEmptyPattern: Vitest needs the pattern to see which fixtures are needed.
  start: async ({}, use) => {
    const made: { close(): Promise<void> }[] = []
    await use(async (redis) => {
      const env = await TopologyEnv.start(redis)
      made.push(env)
      return env
    })
    for (const env of made) await env.close()
  },
})
