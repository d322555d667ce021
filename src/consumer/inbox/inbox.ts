import { queryOf, type Transaction } from '../../producer/transaction.js'
import type { Database, QueryRow, Statement } from './database.js'
import { rowQueryOf } from './row-query.js'

/** What an effect is deduplicated by: a row of the inbox, beside the group. */
export interface InboxKey {
  source: string
  id: string
}

/** The lease that an ordered worker acts under. */
export interface FencingToken {
  key: string
  epoch: string
}

/** The source of rows that stand for a handler's own key instead of an event. */
const OWN_KEY = 'urn:outrider:key'

/** The row of a handler's own idempotency key. */
export const ownKey = (type: string, key: string): InboxKey => ({ source: OWN_KEY, id: `${type} ${key}` })

/**
 * For workers with a loop of their own. Call it first in the transaction of an event's effects. True: process the event.
 * False: this group has processed it before, so skip it. Acknowledge the entry (XACK) in both cases, after the commit. If
 * another open transaction has accepted the same event, the call waits for it, at most 5 s. Then it fails with SQLSTATE
 * 55P03: roll back, and try again.
 *
 *     await client.query('begin')
 *     if (await accept(client, { group: 'billing', source: event.source, id: event.id })) await client.query('update …')
 *     await client.query('commit')
 *
 * `tx`: a client of `pg`, a transaction of Drizzle, Kysely, Knex or TypeORM, or `{ query(text, values) }` that returns rows or `{ rows }`.
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
  const { first, read } = acceptance(group, [{ source, id }], undefined)
  return read(await rowQueryOf(tx)(first.text, first.values)) !== undefined
}

/** Asks for the inbox' rows of these, and how to read from the answer the places, from 0, of what is to be done. */
export function acceptance(
  group: string,
  keys: readonly InboxKey[],
  lease: FencingToken | undefined,
): { first: Statement; read(rows: readonly QueryRow[]): ReadonlySet<number> | undefined } {
  const [key] = keys as [InboxKey]
  if (!lease && keys.length === 1) {
    const first = { text: 'select outrider.accept($1, $2, $3) as accepted', values: [group, key.source, key.id] }
    return { first, read: ([row]) => (row?.accepted === true ? FIRST : undefined) }
  }
  const events = JSON.stringify(keys)
  const first = lease
    ? {
        text: 'select * from outrider.accept_ordered($1, $2::text::json, $3, $4::text::bigint) as m (place)',
        values: [group, events, lease.key, lease.epoch],
      }
    : { text: 'select * from outrider.accept_many($1, $2::text::json) as m (place)', values: [group, events] }
  const read = (rows: readonly QueryRow[]) =>
    rows.length > 0 ? new Set(rows.map(({ place }) => Number(place))) : undefined
  return { first, read }
}

const FIRST: ReadonlySet<number> = new Set([0])

/** Whether it was done already, so that long work is not begun for nothing. */
export async function isDone(database: Database, group: string, { source, id }: InboxKey): Promise<boolean> {
  const text = 'select 1 as done from outrider.inbox where consumer_group = $1 and source = $2 and id = $3'
  return (await database.query({ text, values: [group, source, id] })).length > 0
}

/** Rows go when they are older than the window and this, so that clocks need not agree, in milliseconds. */
export const PRUNE_MARGIN = 3_600_000
const PRUNE_ROWS = 1_000

/** Deletes some of a group's rows that are older than this, in milliseconds; how many. Others' deletes are not waited for. */
export async function prune(database: Database, group: string, age: number): Promise<number> {
  const text = `
    with old as (
      select ctid from outrider.inbox
      where consumer_group = $1 and processed_at < now() - $2::text::interval
      order by processed_at limit ${PRUNE_ROWS} for update skip locked
    )
    delete from outrider.inbox where ctid = any (array (select ctid from old)) returning 1 as gone`
  return (await database.query({ text, values: [group, `${age} milliseconds`] })).length
}

/** Which of these streams a group has read before. */
export async function subscriptions(database: Database, group: string, keys: readonly string[]): Promise<Set<string>> {
  const text = `
    select stream_key from outrider.subscription
    where consumer_group = $1 and stream_key in (select json_array_elements_text($2::text::json))`
  const known = await database.query({ text, values: [group, JSON.stringify(keys)] })
  return new Set(known.map(({ stream_key }) => String(stream_key)))
}

/** Records that a group reads these streams. Only once the group is there: until then it is a new one. */
export async function subscribe(database: Database, group: string, keys: readonly string[]): Promise<void> {
  const text = `
    insert into outrider.subscription (consumer_group, stream_key)
    select $1, key from json_array_elements_text($2::text::json) as k (key) order by key
    on conflict do nothing returning stream_key`
  await database.query({ text, values: [group, JSON.stringify(keys)] })
}
