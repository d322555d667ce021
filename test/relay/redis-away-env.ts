import { type Database, until } from '../../testkit/services/index.js'
import type { RelayEnv } from './relay-env.js'

/** Writes 2 MiB of WAL without any event. */
export async function writeElsewhere(database: Database): Promise<void> {
  await database.query('create table if not exists elsewhere (text text)')
  await database.query("insert into elsewhere select repeat('x', 1000) from generate_series(1, 2000)")
}

/** Waits until the slot stands where the outbox has nothing more to say. */
export async function confirmedTo(env: RelayEnv, lsn: string): Promise<void> {
  const past = 'select $2::pg_lsn - confirmed_flush_lsn <= 16384 as past from pg_replication_slots where slot_name = $1'
  await until(async () => (await env.postgres.query(past, [env.slot, lsn])).rows[0].past, {
    message: `the slot at ${lsn}`,
  })
}

/** Waits until what was published to so many streams is proven and saved. */
export const headsSaved = (env: RelayEnv, streams: number) =>
  until(async () => (await env.postgres.query('select from outrider.head')).rowCount === streams)

export const writtenWal = async (env: RelayEnv): Promise<string> =>
  (await env.postgres.query('select pg_current_wal_lsn()::text as lsn')).rows[0].lsn

/** Keepalives come often, and with them the occasion to confirm. */
export const keepalivesOften = (env: RelayEnv) =>
  env.postgres.query(`alter role relay_${env.database.name} set wal_sender_timeout = '2s'`)

/** Waits until the relay has told Postgres so many times more where it is. */
export async function statusSent(env: RelayEnv, times: number): Promise<void> {
  const replies = new Set<string>()
  const reply = `select reply_time::text as time from pg_stat_replication
    join pg_replication_slots on active_pid = pid where slot_name = $1 and reply_time is not null`
  await until(
    async () => {
      for (const { time } of (await env.postgres.query(reply, [env.slot])).rows) replies.add(time)
      return replies.size > times
    },
    { message: () => `${times + 1} replies of the relay, found ${replies.size}` },
  )
}
