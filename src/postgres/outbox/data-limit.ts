import type pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import { inTransaction, sqlState } from '../client/transaction.js'
import { lockHolders } from './lock-holders.js'

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
 * Waits for a lock no longer than `patienceMs`, because inserts queue behind it.
 */
export async function limitData(client: pg.ClientBase, bytes: number, patienceMs = 5_000): Promise<void> {
  try {
    await addLimit(client, bytes, patienceMs)
  } catch (error) {
    if (sqlState(error) !== LOCK_NOT_AVAILABLE) throw error
    throw new OutriderError(
      `\`data\` of outrider.outbox could not be limited to ${bytes} bytes: the table was in use for ${patienceMs} ms, and inserts ` +
        `wait meanwhile. Found in use by: ${await lockHolders(client)}. End what is not needed, or wait for it; then run \`outrider setup\` again.`,
      { cause: error },
    )
  }
}

const LOCK_NOT_AVAILABLE = '55P03'

async function addLimit(client: pg.ClientBase, bytes: number, patienceMs: number): Promise<void> {
  await inTransaction(client, async () => {
    await client.query(`set local lock_timeout = ${patienceMs}`)
    const current = await readDataLimit(client)
    if (current === bytes) return
    const drop = current === undefined ? '' : `drop constraint ${nameOf(current)}, `
    await client.query(
      `alter table outrider.outbox ${drop}add constraint ${nameOf(bytes)} check (octet_length(data::text) <= ${bytes}) not valid`,
    )
  })
}
