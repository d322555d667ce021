import { fileURLToPath } from 'node:url'
import pg from 'pg'
import pino from 'pino'
import { z } from 'zod'
import { type Consumer, createConsumer } from '../../src/consumer/index.js'
import { defineEvent } from '../../src/index.js'
import { setUp } from '../../src/postgres/setup/setup.js'
import type { Incident } from '../../src/postgres/state/incident.js'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import type { RedisClient } from '../../src/redis/client/connect.js'
import { createTruth } from '../../testkit/oracle/truth.js'
import { createSubjects } from '../../testkit/oracle/writer.js'
import { type LogLine, RelayProcess } from '../../testkit/relay-process.js'
import { type Database, type Postgres, startPostgres, until } from '../../testkit/services/index.js'
import type { RedisPair } from './redis-pair.js'

export const SLOT = 'healing'
const GROUP = 'workers'
export const SUBJECTS = 60

/** The streams, with their number of partitions. */
export const PARTITIONS: Readonly<Record<string, number>> = { orders: 0, payments: 3, users: 0 }
export const STREAMS = Object.keys(PARTITIONS)
/** The keys of the streams in Redis. */
export const KEYS: readonly string[] = Object.entries(PARTITIONS).flatMap(([stream, count]) =>
  count === 0 ? [stream] : Array.from({ length: count }, (_, n) => `${stream}:${n}`),
)

/** A configuration that keeps what is finished for 2 s. */
const TRIMS = fileURLToPath(new URL('trims.yaml', import.meta.url))

type RelayStatus = NonNullable<Awaited<ReturnType<RelayProcess['status']>>>

/** The Redis of a `HealingEnv`, of whatever kind. */
export interface HealingRedis {
  readonly url: string
  /** It connects again by itself. */
  readonly client: RedisClient
  remove(): Promise<void>
}

export interface HealingEnvOptions<R extends HealingRedis> {
  redis(): Promise<R>
  /** Does Postgres track commit timestamps? A repair puts events back in their order. */
  tracksCommits: boolean
  durability: string
  /** Streams are trimmed soon after their entries are finished. */
  trims?: boolean
}

/** A database, a Redis, a relay that may be killed, and a consumer group with one effect an event. */
export class HealingEnv<R extends HealingRedis = RedisPair> {
  readonly postgres: pg.Client
  readonly database: Database
  readonly redis: R
  readonly lineage: string
  readonly #server: Postgres
  readonly #options: HealingEnvOptions<R>
  readonly #pool: pg.Pool
  readonly #consumer: Consumer<pg.PoolClient>
  readonly #consumerLog: string[] = []
  /** Those that run, and are not frozen. */
  #relays: RelayProcess[] = []
  readonly #all: RelayProcess[] = []

  private constructor(
    parts: { server: Postgres; database: Database; postgres: pg.Client; redis: R; lineage: string },
    options: HealingEnvOptions<R>,
  ) {
    this.#server = parts.server
    this.database = parts.database
    this.postgres = parts.postgres
    this.redis = parts.redis
    this.lineage = parts.lineage
    this.#options = options
    this.#pool = new pg.Pool({ connectionString: parts.database.url, max: 6 })
    this.#pool.on('error', () => {})
    this.#consumer = this.#createConsumer()
  }

  get isTrimmed(): boolean {
    return this.#options.trims ?? false
  }

  static async start<R extends HealingRedis>(options: HealingEnvOptions<R>): Promise<HealingEnv<R>> {
    const [server, redis] = await Promise.all([
      startPostgres({
        syncs: false,
        settings: { max_prepared_transactions: '20', track_commit_timestamp: options.tracksCommits ? 'on' : 'off' },
      }),
      options.redis(),
    ])
    const database = await server.createDatabase('healing')
    const postgres = await database.connect()
    await setUp(postgres, {
      ...{ slot: SLOT, publication: 'outrider', source: undefined, outboxTable: 'outrider.outbox' },
      partitions: new Map(Object.entries(PARTITIONS).filter(([, count]) => count > 0)),
    })
    await postgres.query('create role relay login replication in role outrider_relay')
    // So that a relay that is frozen loses the lock soon.
    await postgres.query("alter role relay set wal_sender_timeout = '5s'")
    await createTruth(postgres)
    await createSubjects(postgres, SUBJECTS)
    await postgres.query(`
      alter table truth add at timestamptz not null default clock_timestamp();
      create table effect (event uuid not null)`)
    const { rows } = await postgres.query('select lineage::text from outrider.lineage')
    const env = new HealingEnv({ server, database, postgres, redis, lineage: rows[0].lineage }, options)
    await env.startRelay()
    await until(async () => (await env.status())?.state === 'streaming', { message: () => env.describe() })
    await env.#consumer.start()
    return env
  }

  async startRelay(): Promise<void> {
    const relay = await RelayProcess.start({
      OUTRIDER_POSTGRES_URL: this.database.urlAs({ user: 'relay' }),
      OUTRIDER_REDIS_URL: this.redis.url,
      OUTRIDER_SLOT: SLOT,
      OUTRIDER_ON_GAP: 'repair',
      OUTRIDER_DURABILITY: this.#options.durability,
      ...(this.isTrimmed && { OUTRIDER_CONFIG: TRIMS }),
    })
    this.#relays.push(relay)
    this.#all.push(relay)
  }

  /** What the relay says that is active, or that may become it; undefined while none answers. */
  async status(): Promise<RelayStatus | undefined> {
    return (await this.#leader())?.status
  }

  /** Has a relay that runs now said this in its log since then? `since`: as `Date.now()` gives it. */
  hasSaid(message: string, since: number): boolean {
    const isIt = ({ msg, time }: LogLine) => msg === message && Date.parse(String(time)) >= since
    return this.#relays.some(({ logs }) => logs.some(isIt))
  }

  /** How often a relay that ran at any time has said this in its log. */
  said(message: string): number {
    return this.#all.reduce((sum, { logs }) => sum + logs.filter(({ msg }) => msg === message).length, 0)
  }

  get hasRelay(): boolean {
    return this.#relays.length > 0
  }

  /** SIGKILL to the relay that is active, or may become it. */
  async killRelay(): Promise<void> {
    const relay = await this.#takeLeader()
    await relay?.kill()
  }

  /** It holds still; resolves with what lets it continue, beside the relay that has taken its place. */
  async freezeRelay(): Promise<() => void> {
    const relay = await this.#takeLeader()
    relay?.signal('SIGSTOP')
    return () => {
      if (!relay) return
      relay.signal('SIGCONT')
      this.#relays.push(relay)
    }
  }

  async #takeLeader(): Promise<RelayProcess | undefined> {
    const relay = (await this.#leader())?.relay ?? this.#relays[0]
    this.#relays = this.#relays.filter((each) => each !== relay)
    return relay
  }

  async #leader(): Promise<{ relay: RelayProcess; status: RelayStatus } | undefined> {
    const asked = await Promise.all(this.#relays.map(async (relay) => ({ relay, status: await relay.status() })))
    const answers = asked.flatMap(({ relay, status }) => (status ? [{ relay, status }] : []))
    return (
      answers.find(({ status }) => status.role === 'active') ??
      answers.find(({ status }) => status.role !== 'standby') ??
      answers[0]
    )
  }

  /** Until everything that is committed now is confirmed to the slot. */
  async untilConfirmed(): Promise<void> {
    const { rows } = await this.postgres.query('select pg_current_wal_insert_lsn()::text as lsn')
    const reached = 'select from outrider.lineage where lineage = $1 and confirmed_lsn >= $2'
    await until(async () => (await this.postgres.query(reached, [this.lineage, rows[0].lsn])).rowCount === 1, {
      message: 'what is committed to be confirmed',
    })
  }

  incidents(options?: { closed: boolean }): Promise<Incident[]> {
    return listIncidents(this.postgres, options)
  }

  async effects(): Promise<string[]> {
    const { rows } = await this.postgres.query<{ event: string }>('select event from effect')
    return rows.map(({ event }) => event)
  }

  async countEffects(): Promise<number> {
    const { rows } = await this.postgres.query<{ count: number }>('select count(*)::int as count from effect')
    return rows[0]!.count
  }

  /** For a person who reads why a run failed. */
  describe(): string {
    return [
      ...this.#relays.map((relay) => `-- relay\n${relay.tail(25)}`),
      '-- consumer',
      ...this.#consumerLog.slice(-20),
    ].join('\n')
  }

  async close(): Promise<void> {
    await this.#consumer.stop({ timeout: 0 }).catch(() => {})
    await this.#pool.end()
    await Promise.all(this.#all.filter((relay) => relay.isRunning).map((relay) => relay.kill()))
    await this.postgres.end().catch(() => {})
    await Promise.all([this.redis.remove(), this.#server.remove()])
  }

  #createConsumer(): Consumer<pg.PoolClient> {
    const definitions = STREAMS.map((stream) =>
      defineEvent({ stream, type: 'test.happened', version: 1, data: z.unknown() }),
    )
    const logger = pino({ level: 'info' }, { write: (line) => void this.#consumerLog.push(line.trim()) })
    return createConsumer<pg.Pool>({
      ...{ redis: this.redis.url, db: this.#pool, group: GROUP, claimAfter: '2s', concurrency: 4, logger },
      backoff: { min: 50, max: 500 },
    }).onBatch(
      definitions,
      async (events, { tx }) => {
        await tx.query('insert into effect select unnest($1::uuid[])', [events.map(({ id }) => id)])
      },
      { size: 50 },
    )
  }
}

const OBJECT_IN_USE = '55006'

/** Until the walsender of the slot is gone, and `work` has been done before the relay was back. */
export async function withoutWalsender(env: HealingEnv, work: () => Promise<unknown>): Promise<void> {
  let failure: unknown
  await until(
    async () => {
      await env.postgres.query(
        'select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1',
        [SLOT],
      )
      // Active again, or still: everything else is an error of this test.
      return work().then(
        () => true,
        (error) => {
          if (error.code !== OBJECT_IN_USE) failure = error
          return failure !== undefined
        },
      )
    },
    { message: 'the slot to be free' },
  )
  if (failure !== undefined) throw failure
}
