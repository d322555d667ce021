import type pg from 'pg'
import { inTransaction, sqlState } from '../client/transaction.js'
import { dropSlot, findSlot, requireDroppable } from '../replication/slot-creation.js'
import { retireLineage, type StoredLineage } from '../state/lineage.js'

export const ROLES = ['outrider_writer', 'outrider_relay', 'outrider_consumer']

/**
 * Drops the slot and the publication of a lineage and retires it; what is gone already is fine. The slot goes first:
 * after an interruption the rest can be done again, while a slot alone would hold WAL for ever.
 */
export async function removeLineage(client: pg.ClientBase, stored: StoredLineage): Promise<void> {
  const slot = await findSlot(client, stored.slot)
  if (slot) {
    requireDroppable(stored.slot, slot)
    await dropSlot(client, stored.slot)
  }
  await inTransaction(client, async () => {
    await client.query("set local lock_timeout = '5s'")
    await retireLineage(client, stored.lineage)
    const { rows } = await client.query<{ used: boolean }>(
      'select exists (select from outrider.lineage where publication = $1 and retired_at is null) as used',
      [stored.publication],
    )
    if (!rows[0]!.used) {
      await client.query(`drop publication if exists ${client.escapeIdentifier(stored.publication)}`)
    }
  })
}

/** Drops the schema with all that is in it, and those of Outrider's roles that no one has or needs. Returns the roles that stay. */
export async function removeSchema(client: pg.ClientBase): Promise<string[]> {
  await inTransaction(client, async () => {
    await client.query("set local lock_timeout = '5s'")
    await client.query('drop schema if exists outrider cascade')
  })
  const stay: string[] = []
  await client.query("set lock_timeout = '5s'")
  for (const role of ROLES) {
    if (!(await dropRole(client, role))) stay.push(role)
  }
  await client.query('reset lock_timeout')
  return stay
}

/** Drops a role unless someone has it or needs it; says whether it is gone. */
export async function dropRole(client: pg.ClientBase, role: string): Promise<boolean> {
  // From 16 on, the creator of a role becomes a member of it by that alone.
  const { rowCount } = await client.query(
    `select from pg_auth_members
     where roleid = (select oid from pg_roles where rolname = $1)
       and member <> (select oid from pg_roles where rolname = current_user)`,
    [role],
  )
  if (rowCount) return false
  try {
    await client.query(`drop role if exists ${client.escapeIdentifier(role)}`)
    return true
  } catch (error) {
    // 2BP01: another database uses it. 55P03: it is just being granted something. 42501: someone else made it.
    if (['2BP01', '55P03', '42501'].includes(sqlState(error) ?? '')) return false
    throw error
  }
}
