import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { test as base } from 'vitest'
import { setUp } from '../../src/postgres/setup/setup.js'
import { RelayProcess } from '../../testkit/relay-process.js'
import { until } from '../../testkit/services/index.js'
import { createTestEnv, type TestEnv, type TestEnvOptions } from '../support/test-env.js'

/** A database that is set up, a Redis, and relays between them, which have the rights of `outrider_relay` alone. */
export interface RelayEnv extends TestEnv {
  /** Over the superuser's connection. */
  postgres: pg.Client
  slot: string
  /** The environment variables of its relays. */
  variables: Record<string, string>
  /** Starts a relay; `variables` are added to those of the environment. */
  relay(variables?: Record<string, string>): Promise<RelayProcess>
  /** Starts a relay and waits until it streams. */
  streamingRelay(variables?: Record<string, string>): Promise<RelayProcess>
  /** Inserts one event; its id. */
  insert(stream: string, data?: unknown, subject?: string): Promise<string>
  /** The event ids in a stream, in order. */
  ids(stream: string): Promise<string[]>
  /** The slot's `confirmed_flush_lsn`. As text it has no order: '0/FFFFFF8' > '0/10000000'. */
  confirmed(): Promise<string>
  /**
   * Whether the slot has passed the last event in a stream. That the slot has moved does not tell: an idle relay confirms what others
   * write to the same server.
   */
  isConfirmed(stream: string): Promise<boolean>
  /** The process id of the walsender that serves the slot, once there is one. */
  walsender(): Promise<number>
}

export interface RelayEnvOptions extends TestEnvOptions {
  partitions?: Record<string, number>
  /** A table of the team's own: its name, and the statements that create it. */
  outbox?: { table: string; create: string }
  /** Sets the database up in place of this version, with the variables of its owner. */
  setup?: (variables: Record<string, string>) => Promise<unknown>
}

export async function createRelayEnv(options: RelayEnvOptions = {}): Promise<RelayEnv> {
  // What another version sets up must be empty before.
  const env = await createTestEnv({ ...options, migrated: options.setup ? undefined : 'outbox' })
  const { database, server, redis } = env
  const slot = `outrider_${database.name}`
  const role = `relay_${database.name}`
  const postgres = await database.connect()
  if (options.outbox) await postgres.query(options.outbox.create)
  if (options.setup) {
    await options.setup({
      OUTRIDER_POSTGRES_URL: database.url,
      OUTRIDER_REDIS_URL: server.url,
      OUTRIDER_SLOT: slot,
    })
  } else {
    await setUp(postgres, {
      slot,
      publication: 'outrider',
      source: undefined,
      outboxTable: options.outbox?.table ?? 'outrider.outbox',
      partitions: new Map(Object.entries(options.partitions ?? {})),
      // Other tests in this cluster may have long transactions, whose end a new slot waits for.
      lockTimeout: 60_000,
    })
  }
  await postgres.query(`create role ${pg.escapeIdentifier(role)} login replication in role outrider_relay`)
  const relays: RelayProcess[] = []
  const variables = {
    OUTRIDER_POSTGRES_URL: database.urlAs({ user: role }),
    OUTRIDER_REDIS_URL: server.url,
    OUTRIDER_SLOT: slot,
    OUTRIDER_LOG_LEVEL: 'debug',
    // Most tests look at what a gap stops. Those of repairs say so.
    OUTRIDER_ON_GAP: 'halt',
  }
  const start = async (more: Record<string, string> = {}) => {
    const relay = await RelayProcess.start({ ...variables, ...more })
    relays.push(relay)
    return relay
  }
  return {
    ...env,
    postgres,
    slot,
    variables,
    relay: start,
    async streamingRelay(more) {
      const relay = await start(more)
      await relay.streaming()
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
    async isConfirmed(stream) {
      const [[, fields]] = (await redis.xrevrange(stream, '+', '-', 'COUNT', 1)) as [[string, string[]]]
      const [, high, low] = /^[0-9a-f]{8}-([0-9a-f]{8})([0-9a-f]{8})-/.exec(fields[fields.indexOf('sequence') + 1]!)!
      const past = 'select from pg_replication_slots where slot_name = $1 and confirmed_flush_lsn > $2'
      return (await postgres.query(past, [slot, `${high}/${low}`])).rowCount === 1
    },
    async walsender() {
      const active = 'select active_pid from pg_replication_slots where slot_name = $1'
      return until(async () => (await postgres.query(active, [slot])).rows[0]?.active_pid)
    },
    async close() {
      for (const relay of relays) if (relay.isRunning) await relay.kill()
      await postgres.end().catch(() => {})
      await env.close()
      if (!options.database) await database.server.query(`drop role ${pg.escapeIdentifier(role)}`).catch(() => {})
    },
  }
}

interface Fixtures {
  env: RelayEnv
  /** Makes one with options, and closes it when the test is over. */
  createEnv(options?: RelayEnvOptions): Promise<RelayEnv>
  /** The path of a file with this configuration, for `OUTRIDER_CONFIG`. */
  configFile(yaml: string): Promise<string>
}

export const relayTest = base.extend<Fixtures>({
  env: async ({ createEnv }, use) => use(await createEnv()),
  // biome-ignore lint/correctness/noEmptyPattern: Vitest needs the pattern to see which fixtures are needed.
  createEnv: async ({}, use) => {
    const made: RelayEnv[] = []
    await use(async (options) => {
      const env = await createRelayEnv(options)
      made.push(env)
      return env
    })
    for (const env of made) await env.close()
  },
  // biome-ignore lint/correctness/noEmptyPattern: Vitest needs the pattern to see which fixtures are needed.
  configFile: async ({}, use) => {
    const folder = await mkdtemp(join(tmpdir(), 'outrider-'))
    await use(async (yaml) => {
      const file = join(folder, 'outrider.yaml')
      await writeFile(file, yaml)
      return file
    })
    await rm(folder, { recursive: true })
  },
})
