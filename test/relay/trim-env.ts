import { until } from '../../testkit/services/index.js'
import type { RelayEnv } from './relay-env.js'

/** Inserts events, and waits until they are in their stream; their ids. */
export async function insertSome(env: RelayEnv, stream: string, count: number): Promise<string[]> {
  const ids: string[] = []
  for (let n = 0; n < count; n++) ids.push(await env.insert(stream, { n }))
  await until(async () => (await env.ids(stream)).includes(ids.at(-1) as string), {
    message: 'the events in the stream',
  })
  return ids
}

/** A group reads entries, which are pending then; their ids. */
export async function read(env: RelayEnv, group: string, count: number, stream = 'orders'): Promise<string[]> {
  const reply = await env.redis.xreadgroup('GROUP', group, 'worker', 'COUNT', count, 'STREAMS', stream, '>')
  const [[, entries]] = reply as [[string, [string, string[]][]]]
  return entries.map(([id]) => id)
}

/** A checkpoint that sees what is in the streams; its LSN. Everything that is committed must be there. */
export async function checkpoint(env: RelayEnv): Promise<string> {
  const { rows } = await env.postgres.query(
    `insert into outrider.checkpoint (lineage, lsn, snapshot)
     select lineage, pg_current_wal_insert_lsn(), pg_current_snapshot() from outrider.lineage returning lsn::text`,
  )
  return rows[0].lsn
}
