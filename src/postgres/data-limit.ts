import type pg from 'pg'
import { inTransaction } from './transaction.js'

const PREFIX = 'outbox_data_at_most_'

const nameOf = (bytes: number): string => `${PREFIX}${bytes}_bytes`

/** The bytes that `data` of Outrider's own table may have; undefined without a limit. */
export async function readDataLimit(client: pg.ClientBase): Promise<number | undefined> {
  const { rows } = await client.query<{ bytes: string }>(
    `select substring(conname from $1) as bytes
     from pg_constraint join pg_class as c on c.oid = conrelid join pg_namespace as n on n.oid = relnamespace
     where nspname = 'outrider' and relname = 'outbox' and contype = 'c' and conname ~ $1`,
    [`^${PREFIX}(\\d+)_bytes$`],
  )
  return rows[0] && Number(rows[0].bytes)
}

/**
 * Lets the producer's own INSERT fail for a payload that the relay would reject. Rows that are there are not looked at.
 * Waits for a lock no longer than five seconds, because inserts queue behind it.
 */
export async function limitData(client: pg.ClientBase, bytes: number): Promise<void> {
  await inTransaction(client, async () => {
    await client.query("set local lock_timeout = '5s'")
    const current = await readDataLimit(client)
    if (current === bytes) return
    const drop = current === undefined ? '' : `drop constraint ${nameOf(current)}, `
    await client.query(
      `alter table outrider.outbox ${drop}add constraint ${nameOf(bytes)} check (octet_length(data::text) <= ${bytes}) not valid`,
    )
  })
}
