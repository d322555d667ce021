import type { Redis } from 'ioredis'
import type pg from 'pg'
import { inTransaction } from '../service.js'

/** The steps of a rebuild, each taken by the owner of the tables. Between the first two, workers of the new group are started. */

/** A new table, empty; where the rebuild is for another shape, with that. */
export async function prepare(owner: pg.Client): Promise<void> {
  await inTransaction(owner, async () => {
    await owner.query('create table catalogue_2 (like catalogue_1 including all)')
    await owner.query('grant select, insert, update on catalogue_2 to catalogue_worker')
  })
}

/** Readers see the new table from the commit on. False, and nothing is done, while it is behind the old one anywhere. */
export function swap(owner: pg.Client): Promise<boolean> {
  return inTransaction(owner, async () => {
    await owner.query(`set local lock_timeout = '2s'`)
    // The old table stands still for the moment between the comparison and the commit: no reader is taken back in time.
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

/** Once the old group's workers have stopped: a group that is left behind holds up the trimming of its stream. */
export async function retire(owner: pg.Client, redis: Redis): Promise<void> {
  await redis.xgroup('DESTROY', 'products', 'catalogue-1')
  await inTransaction(owner, async () => {
    await owner.query('drop table catalogue_1')
    await owner.query(`delete from outrider.inbox where consumer_group = 'catalogue-1'`)
    await owner.query(`delete from outrider.subscription where consumer_group = 'catalogue-1'`)
  })
}
