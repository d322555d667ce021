import type pg from 'pg'
import type { EntryId } from '../../event/entry-id.js'
import { isUndisputed } from './checkpoints.js'

/** How far what a group has moved out of its stream is recorded: its dead letters, what it has set aside, what was put back. */
export interface MovedMarks {
  deadEntry: EntryId
  waitingEntry: EntryId
  replayedEntry: EntryId
}

/** A consumer group as a relay saw it last: a row of `outrider.consumer_group`. */
export interface SavedGroup extends MovedMarks {
  key: string
  name: string
  /** Entries before it were finished by the group. */
  floor: EntryId
}

/** Rows that one statement reads or writes. */
const AT_ONCE = 1_000

/** All groups that a lineage has seen, in pages. */
export async function* loadGroups(client: pg.ClientBase, lineage: string): AsyncGenerator<SavedGroup[]> {
  for (let after = ['', '']; ; ) {
    const { rows } = await client.query<SavedGroup>(
      `${SELECT} and (stream_key, consumer_group) > ($2, $3) order by stream_key, consumer_group limit ${AT_ONCE}`,
      [lineage, ...after],
    )
    if (rows.length > 0) yield rows
    if (rows.length < AT_ONCE) return
    const last = rows.at(-1)!
    after = [last.key, last.name]
  }
}

/** The groups of one stream. */
export async function loadGroupsOf(client: pg.ClientBase, lineage: string, key: string): Promise<SavedGroup[]> {
  return (await client.query<SavedGroup>(`${SELECT} and stream_key = $2`, [lineage, key])).rows
}

const SELECT = `select stream_key as key, consumer_group as name, floor, dead_entry as "deadEntry", waiting_entry as "waitingEntry",
  replayed_entry as "replayedEntry" from outrider.consumer_group where lineage = $1`

/**
 * Nothing is written where another session leads, which may have set floors back, or a gap is open. `areNew`: else only those are
 * saved whose rows no one has deleted.
 */
export async function saveGroups(
  client: pg.ClientBase,
  own: { lineage: string; session: string },
  groups: readonly SavedGroup[],
  areNew: boolean,
): Promise<void> {
  for (let i = 0; i < groups.length; i += AT_ONCE) {
    const some = groups.slice(i, i + AT_ONCE)
    await client.query(
      `insert into outrider.consumer_group (lineage, stream_key, consumer_group, floor, dead_entry, waiting_entry, replayed_entry)
       select lineage, seen.* from outrider.lineage as l,
         unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[]) as seen (key, name, floor, dead, waiting, replayed)
       where lineage = $1 and ${isUndisputed('l', '$2')} and ($3 or exists (
         select from outrider.consumer_group as g
         where g.lineage = l.lineage and g.stream_key = seen.key and g.consumer_group = seen.name))
       on conflict (lineage, stream_key, consumer_group) do update
         set floor = excluded.floor, dead_entry = excluded.dead_entry, waiting_entry = excluded.waiting_entry,
             replayed_entry = excluded.replayed_entry, updated_at = clock_timestamp()`,
      [
        own.lineage,
        own.session,
        areNew,
        some.map(({ key }) => key),
        some.map(({ name }) => name),
        some.map(({ floor }) => floor),
        some.map(({ deadEntry }) => deadEntry),
        some.map(({ waitingEntry }) => waitingEntry),
        some.map(({ replayedEntry }) => replayedEntry),
      ],
    )
  }
}

/** Redis lost events of these streams: what comes now may have ids below a floor of before, and no group has finished it. */
export async function resetFloors(client: pg.ClientBase, lineage: string, keys: readonly string[]): Promise<void> {
  await client.query(
    `update outrider.consumer_group set floor = '0-0', updated_at = clock_timestamp()
     where lineage = $1 and stream_key = any ($2)`,
    [lineage, keys],
  )
}
