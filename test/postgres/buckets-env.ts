import type pg from 'pg'
import { setUp } from '../../src/postgres/setup/setup.js'
import type { Database, Postgres } from '../../testkit/services/index.js'
import { createMigratedDatabase } from '../support/migrated-database.js'

/** The bucket that inserts go to, until `setCurrent`. */
export const CURRENT = 12

export interface BucketsEnv {
  database: Database
  /** The owner's. */
  client: pg.Client
  slot: string
  /** Takes the place of the clock. */
  setCurrent(bucket: number): Promise<void>
  /** Inserts an event into a bucket; its id. */
  insert(bucket: number, from?: pg.ClientBase, createdAt?: string): Promise<string>
  /** Confirms everything, and saves a checkpoint that is so many hours old. Resolves with its LSN. */
  checkpoint(hours: number): Promise<string>
  empty(bucket: number, hours?: number): Promise<string | null>
  ids(bucket: number): Promise<string[]>
  close(): Promise<void>
}

/** A database that is set up, whose slot no one reads; in `server`, or in the shared cluster. */
export async function createBucketsEnv(server?: Postgres): Promise<BucketsEnv> {
  const database = server ? await server.createDatabase() : await createMigratedDatabase('outbox')
  const client = await database.connect()
  const slot = `outrider_${database.name}`
  const { lineage } = await setUp(client, {
    ...{ slot, publication: 'outrider', source: undefined, outboxTable: 'outrider.outbox' },
    ...{ partitions: new Map(), lockTimeout: 60_000 },
  })
  const setCurrent = async (bucket: number) => {
    await client.query(`create or replace function outrider.bucket() returns smallint language sql volatile
      parallel safe return ${bucket}::smallint`)
  }
  await setCurrent(CURRENT)
  return {
    database,
    client,
    slot,
    setCurrent,
    async insert(bucket, from = client, createdAt = 'now') {
      const { rows } = await from.query(
        `insert into outrider.outbox (stream, type, bucket, created_at) values ('orders', 'placed', $1, $2) returning id`,
        [bucket, createdAt],
      )
      return rows[0].id
    },
    async checkpoint(hours) {
      const { rows } = await client.query(
        'select pg_current_snapshot()::text as snapshot, pg_current_wal_insert_lsn()::text as lsn',
      )
      await client.query(
        `insert into outrider.checkpoint (lineage, lsn, snapshot, taken_at)
         values ($1, $2, $3, clock_timestamp() - make_interval(hours => $4))`,
        [lineage.lineage, rows[0].lsn, rows[0].snapshot, hours],
      )
      // That commit lies past the checkpoint.
      await client.query('select pg_replication_slot_advance($1, pg_current_wal_flush_lsn())', [slot])
      return rows[0].lsn
    },
    async empty(bucket, hours = 72) {
      await client.query('begin isolation level read committed')
      try {
        const { rows } = await client.query(
          'select outrider.empty_bucket($1::smallint, clock_timestamp() - make_interval(hours => $2)) as refusal',
          [bucket, hours],
        )
        return rows[0].refusal
      } finally {
        await client.query('commit')
      }
    },
    async ids(bucket) {
      const { rows } = await client.query('select id from outrider.outbox where bucket = $1 order by seq', [bucket])
      return rows.map(({ id }) => id)
    },
    async close() {
      await client.query('select pg_drop_replication_slot($1)', [slot]).catch(() => {})
      await client.end()
      await database.drop()
    },
  }
}
