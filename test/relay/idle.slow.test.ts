import { expect } from 'vitest'
import { aliveKey } from '../../src/event/names.js'
import { type Database, needsProcess, startPostgres, startRedis, until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

/** Writes about so many MiB of WAL that is nobody's event. */
async function writeElsewhere(database: Database, mebibytes: number): Promise<void> {
  await database.query('create table if not exists elsewhere (text text)')
  await database.query("insert into elsewhere select repeat('x', 1000) from generate_series(1, $1)", [mebibytes * 1000])
}

const bytes = async (database: Database, expression: string): Promise<number> =>
  (await database.query<{ n: number }>(`select (${expression})::float8 as n`))[0]!.n

/** Waits until the slot stands at or past `lsn`, or not more than `slack` bytes before it. */
async function confirmedPast(env: RelayEnv, lsn: string, slack: number): Promise<void> {
  await until(
    async () => {
      const { rows } = await env.postgres.query(
        'select $2::pg_lsn - confirmed_flush_lsn <= $3 as past from pg_replication_slots where slot_name = $1',
        [env.slot, lsn, slack],
      )
      return rows[0].past
    },
    { message: `the slot at ${lsn}` },
  )
}

const writtenWal = async (database: Database): Promise<string> =>
  (await database.query<{ lsn: string }>('select pg_current_wal_lsn()::text as lsn'))[0]!.lsn

test.concurrent('the outbox idle, other tables and another database busy: the slot follows, and retained WAL stays flat', async ({
  env,
}) => {
  await env.database.query(`alter role relay_${env.database.name} set wal_sender_timeout = '2s'`)
  await env.streamingRelay()
  const other = await env.database.server.createDatabase()
  for (const busy of [env.database, other]) {
    const before = await env.confirmed()
    await writeElsewhere(busy, 4)
    const written = await writtenWal(busy)
    expect(await bytes(busy, `'${written}'::pg_lsn - '${before}'`)).toBeGreaterThan(4 << 20)
    // So little is not worth a write.
    await confirmedPast(env, written, 16_384)
  }
  await other.drop()
  // An event among it is none the worse for it.
  const id = await env.insert('orders')
  await until(async () => (await env.ids('orders')).length > 0)
  expect(await env.ids('orders')).toEqual([id])
})

test.concurrent('nothing flows: nothing is written in Postgres, and in Redis the alive key alone, however many keepalives come and go', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  // Of its own: whatever is written there, the relay has written.
  const server = await startPostgres({ settings: { autovacuum: 'off', wal_sender_timeout: '2s' } })
  onTestFinished(() => server.remove())
  const database = await server.createDatabase()
  const env = await createEnv({ database })
  await env.streamingRelay()
  await env.insert('orders')
  await confirmedPast(env, await writtenWal(database), 0)

  const state = async () => {
    const [postgres] = await database.query(
      `select pg_snapshot_xmax(pg_current_snapshot())::text as xid,
         (select xmin::text || ctid || confirmed_lsn from outrider.lineage) as lineage,
         (select string_agg(xmin::text || ctid, ',') from outrider.head) as heads,
         (select count(*) from outrider.checkpoint) as checkpoints`,
    )
    const changes = /rdb_changes_since_last_save:(\d+)/.exec(await env.redis.info('persistence'))?.[1]
    return { changes: Number(changes), saved: { ...postgres, confirmed: await env.confirmed() } }
  }
  const replyTime = async (): Promise<string> =>
    (await env.postgres.query('select reply_time::text as time from pg_stat_replication')).rows[0]?.time
  const before = await state()
  const wal = await writtenWal(database)
  const { rows } = await env.postgres.query<{ lineage: string }>('select lineage from outrider.lineage')
  const alive = aliveKey(rows[0]!.lineage)
  const expiresIn: number[] = []
  // Longer than the 10 s after which idle WAL may be confirmed.
  const began = performance.now()
  const replies = new Set<string>()
  await until(async () => {
    replies.add(await replyTime())
    expiresIn.push(await env.redis.pttl(alive))
    return performance.now() - began > 12_000 && replies.size > 10
  })
  const { changes, saved } = await state()
  expect(saved).toEqual(before.saved)
  // Set every 5 s, for 15 s: those who listen for 20 s hear it three times. Of a machine that stands still it is set late.
  expect(changes - before.changes).toBeLessThanOrEqual(1 + Math.ceil((performance.now() - began) / 5_000))
  expect(Math.max(...expiresIn)).toBeLessThanOrEqual(15_000)
  expect(Math.max(...expiresIn)).toBeGreaterThan(14_000)
  expect(Math.min(...expiresIn)).toBeLessThan(11_000)
  expect(Math.min(...expiresIn)).toBeGreaterThan(0)
  // Postgres itself may note its running transactions, now and then.
  expect(await bytes(database, `pg_current_wal_insert_lsn() - '${wal}'`)).toBeLessThan(1024)
})

test.concurrent('a Redis that closes quiet connections after a second does not close that of a relay without a stream', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const env = await createEnv({ redis: await startRedis({ settings: { timeout: '1' } }) })
  const relay = await env.streamingRelay()
  const ages = async () =>
    [...String(await env.redis.client('LIST')).matchAll(/name=outrider-\S+ age=(\d+)/g)].map(([, age]) => Number(age))
  await until(async () => (await ages()).some((age) => age >= 3), {
    message: 'a connection that lived for three seconds',
  })
  expect(relay.logs.filter(({ msg }) => msg.startsWith('blocked'))).toEqual([])
})
