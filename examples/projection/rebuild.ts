import type { Redis } from 'ioredis'
import type pg from 'pg'
import { inTransaction } from '../service.js'

/** The steps of a rebuild. The owner of the tables runs them. Start workers of the new group after the first step. */

/** Creates an empty table for the new group. If the rebuild changes the columns, create it with the new columns. */
export async function prepare(owner: pg.Client): Promise<void> {
  await inTransaction(owner, async () => {
    await owner.query('create table catalogue_2 (like catalogue_1 including all)')
    await owner.query('grant select, insert, update on catalogue_2 to catalogue_worker')
  })
}

/** Points the view at the new table. Returns false and changes nothing if any product is older there than in the old table. */
export function swap(owner: pg.Client): Promise<boolean> {
  return inTransaction(owner, async () => {
    await owner.query(`set local lock_timeout = '2s'`)
    // The lock stops writes to the old table between the comparison and the commit, so that no reader sees an older
    // version after the swap.
    await owner.query('lock table catalogue_1 in share mode')
    const { rows } = await owner.query(
      `select count(*)::integer as behind
       from catalogue_1 as old left join catalogue_2 as rebuilt using (product_id)
       where rebuilt.version is null or rebuilt.version < old.version`,
    )
    if (rows[0].behind > 0) return false
    await owner.query(
      'create or replace view catalogue as select product_id, version, name, price_cents from catalogue_2',
    )
    return true
  })
}

/** Removes the old group and its table. First stop its workers. A group without workers prevents the trimming of its stream. */
export async function retire(owner: pg.Client, redis: Redis): Promise<void> {
  await redis.xgroup('DESTROY', 'products', 'catalogue-1')
  await inTransaction(owner, async () => {
    await owner.query('drop table catalogue_1')
    await owner.query(`delete from outrider.inbox where consumer_group = 'catalogue-1'`)
    // Trimming waits for a group that was destroyed, as long as it is known.
    await owner.query(`delete from outrider.consumer_group where consumer_group = 'catalogue-1'`)
    await owner.query(`delete from outrider.subscription where consumer_group = 'catalogue-1'`)
  })
}
