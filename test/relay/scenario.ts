import type { Redis as Client } from 'ioredis'
import pg from 'pg'
import { setUp } from '../../src/postgres/setup.js'
import { RelayProcess } from '../../testkit/relay-process.js'
import { createDatabase, type Database, type FreshRedis, freshRedis, until } from '../../testkit/services/index.js'

/** A database that is set up, a Redis, and relays between them that run as nothing more than `outrider_relay`. */
export interface Scenario {
  database: Database
  /** Over the superuser's connection. */
  postgres: pg.Client
  /** A client of it, which connects again when it is back. */
  redis: Client
  slot: string
  env: Record<string, string>
  relay(env?: Record<string, string>): Promise<RelayProcess>
  /** Inserts one event; its id. */
  insert(stream: string, data?: unknown, subject?: string): Promise<string>
  /** The ids in a stream, in order. */
  ids(stream: string): Promise<string[]>
  /** Where the slot stands. */
  confirmed(): Promise<string>
  /** The process id of the walsender that serves the slot, once there is one. */
  walsender(): Promise<number>
  close(): Promise<void>
}

export async function createScenario(
  options: {
    database?: Database
    redis?: FreshRedis
    partitions?: Record<string, number>
    /** A table of the team's own: its name, and the statements that create it. */
    outbox?: { table: string; create: string }
  } = {},
): Promise<Scenario> {
  const database = options.database ?? (await createDatabase())
  const server = options.redis ?? (await freshRedis())
  const slot = `outrider_${database.name}`
  const role = `relay_${database.name}`
  const postgres = await database.connect()
  if (options.outbox) await postgres.query(options.outbox.create)
  await setUp(postgres, {
    slot,
    publication: 'outrider',
    source: undefined,
    outboxTable: options.outbox?.table ?? 'outrider.outbox',
    partitions: new Map(Object.entries(options.partitions ?? {})),
  })
  await postgres.query(`create role ${pg.escapeIdentifier(role)} login replication in role outrider_relay`)
  const redis = server.client({ retryStrategy: () => 50, maxRetriesPerRequest: null })
  redis.on('error', () => {})
  const relays: RelayProcess[] = []
  const env = {
    OUTRIDER_POSTGRES_URL: database.urlAs({ user: role }),
    OUTRIDER_REDIS_URL: server.url,
    OUTRIDER_SLOT: slot,
    OUTRIDER_LOG_LEVEL: 'debug',
  }
  return {
    database,
    postgres,
    redis,
    slot,
    env,
    async relay(more = {}) {
      const relay = await RelayProcess.start({ ...env, ...more })
      relays.push(relay)
      return relay
    },
    async insert(stream, data = {}, subject) {
      const { rows } = await postgres.query('select outrider.publish($1, $2, $3, subject => $4) as id', [
        stream,
        'test.happened',
        JSON.stringify(data),
        subject ?? null,
      ])
      return rows[0].id
    },
    async ids(stream) {
      const entries = await redis.xrange(stream, '-', '+')
      return entries.map(([, fields]) => fields[fields.indexOf('id') + 1] as string)
    },
    async confirmed() {
      const { rows } = await postgres.query(
        'select confirmed_flush_lsn::text as lsn from pg_replication_slots where slot_name = $1',
        [slot],
      )
      return rows[0]?.lsn
    },
    async walsender() {
      const active = 'select active_pid from pg_replication_slots where slot_name = $1'
      return until(async () => (await postgres.query(active, [slot])).rows[0]?.active_pid)
    },
    async close() {
      for (const relay of relays) if (relay.isRunning) await relay.kill()
      redis.disconnect()
      await postgres.end().catch(() => {})
      await server.remove()
      if (!options.database) {
        await database.drop()
        await database.server.query(`drop role ${pg.escapeIdentifier(role)}`).catch(() => {})
      }
    },
  }
}
