import { queryOf, type Transaction } from '../outbox/transaction.js'
import { type Database, type RowQuery, rowQueryOf } from './database.js'

/** What an effect is deduplicated by: a row of the inbox, beside the group. */
export interface InboxKey {
  source: string
  id: string
}

/** The lease that an ordered worker acts under. */
export interface Epoch {
  key: string
  epoch: string
}

/** The source of rows that stand for a handler's own key instead of an event. */
const OWN_KEY = 'urn:outrider:key'

/** The row of a handler's own idempotency key. */
export const ownKey = (type: string, key: string): InboxKey => ({ source: OWN_KEY, id: `${type} ${key}` })

/**
 * For those who run their own loop: call it first in the transaction of an event's effects. True means do the work; false
 * means that this group has done it: skip it. Waits up to 5 seconds (SQLSTATE 55P03) while another transaction is doing
 * it. Acknowledge the entry (XACK) in both cases, after the commit.
 *
 *     await client.query('begin')
 *     if (await accept(client, { group: 'billing', source: event.source, id: event.id })) await client.query('update …')
 *     await client.query('commit')
 *
 * `tx`: a client of `pg`, a transaction of Drizzle or Kysely, or `{ query(text, values) }` that returns rows or `{ rows }`.
 * Needs the role `outrider_consumer`.
 */
export async function accept(tx: Transaction, event: { group: string; source: string; id: string }): Promise<boolean> {
  const { group, source, id } = event
  for (const [name, value] of Object.entries({ group, source, id })) {
    if (typeof value === 'string' && value !== '') continue
    throw new TypeError(`Expected accept's ${name} as a text that is not empty, found ${JSON.stringify(value)}.`)
  }
  // Refuses what is no transaction.
  queryOf(tx)
  return acceptOne(rowQueryOf(tx), group, { source, id })
}

export async function acceptOne(query: RowQuery, group: string, { source, id }: InboxKey): Promise<boolean> {
  const rows = await query('select outrider.accept($1, $2, $3) as accepted', [group, source, id])
  return rows[0]?.accepted === true
}

/** The places, from 0, of what is to be done; what stands in the list twice is to be done once. */
export async function acceptMany(
  query: RowQuery,
  group: string,
  keys: readonly InboxKey[],
  lease: Epoch | undefined,
): Promise<number[]> {
  if (!lease && keys.length === 1) return (await acceptOne(query, group, keys[0] as InboxKey)) ? [0] : []
  const events = JSON.stringify(keys)
  const rows = lease
    ? await query('select * from outrider.accept_ordered($1, $2::text::json, $3, $4::text::bigint) as m (place)', [
        group,
        events,
        lease.key,
        lease.epoch,
      ])
    : await query('select * from outrider.accept_many($1, $2::text::json) as m (place)', [group, events])
  return rows.map(({ place }) => Number(place))
}

/** Whether it was done already, so that long work is not begun for nothing. */
export async function isDone(database: Database, group: string, key: InboxKey): Promise<boolean> {
  let done = false
  await database.transaction(
    async (query) => {
      const rows = await query(
        'select 1 as done from outrider.inbox where consumer_group = $1 and source = $2 and id = $3',
        [group, key.source, key.id],
      )
      done = rows.length > 0
      return undefined
    },
    async () => {},
  )
  return done
}

/** Rows go when they are older than the window and this, so that clocks need not agree, in milliseconds. */
export const PRUNE_MARGIN = 3_600_000
const PRUNE_ROWS = 1_000

/** Deletes some of a group's rows that are older than this, in milliseconds; how many. Others' deletes are not waited for. */
export async function prune(database: Database, group: string, age: number): Promise<number> {
  const done = await database.transaction(
    (query) =>
      query(
        `with old as (
           select ctid from outrider.inbox
           where consumer_group = $1 and processed_at < clock_timestamp() - $2::text::interval
           order by processed_at limit ${PRUNE_ROWS} for update skip locked
         )
         delete from outrider.inbox where ctid = any (array (select ctid from old)) returning 1 as gone`,
        [group, `${age} milliseconds`],
      ),
    async () => {},
  )
  return done?.opened.length ?? 0
}

/** Records that a group reads these streams; those of them that it did not read before. */
export async function subscribe(database: Database, group: string, keys: readonly string[]): Promise<string[]> {
  const done = await database.transaction(
    (query) =>
      query(
        `insert into outrider.subscription (consumer_group, stream_key)
         select $1, key from json_array_elements_text($2::text::json) as k (key) order by key
         on conflict do nothing returning stream_key`,
        [group, JSON.stringify(keys)],
      ),
    async () => {},
  )
  return (done?.opened ?? []).map(({ stream_key }) => String(stream_key))
}
