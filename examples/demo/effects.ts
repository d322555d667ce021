import type pg from 'pg'
import type { GroupName } from './groups.js'

/** The effect of an event is a row in this table. The table has no unique constraint, so only the inbox prevents a second row. */
export async function createEffects(client: pg.ClientBase): Promise<void> {
  await client.query('create table effect (consumer_group text not null, event_id uuid not null)')
}

/** The effects of a group, compared with the committed events. */
export interface Effects {
  count: number
  /** Events that were committed, and have no effect. */
  lost: string[]
  /** Events with more than one. */
  doubled: string[]
  /** Effects of what was never committed. */
  phantom: string[]
}

export async function readEffects(client: pg.ClientBase, group: GroupName): Promise<Effects> {
  const ids = async (sql: string): Promise<string[]> => (await client.query(sql, [group])).rows.map(({ id }) => id)
  const effects = 'select event_id as id from effect where consumer_group = $1'
  return {
    count: (await ids(effects)).length,
    lost: await ids(`select event_id as id from truth except ${effects}`),
    doubled: await ids(`${effects} group by id having count(*) > 1`),
    phantom: await ids(`${effects} except select event_id from truth`),
  }
}
