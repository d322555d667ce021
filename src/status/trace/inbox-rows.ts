import { type InboxPlace, mayReadInbox, PROBLEMS } from '../inboxes.js'
import { withReader } from '../postgres.js'

/** What the inboxes know of events. */
export interface InboxAnswer {
  /** Databases that were asked. */
  asked: string[]
  problems: { place: string; problem: string; unreachable: boolean }[]
  /** When a group was done with an event, by `event group`. */
  done: Map<string, { at: Date; place: string }>
  /** Groups that have subscribed to a stream, by its key. */
  subscribed: Map<string, Set<string>>
}

/** Asks each inbox by its primary key. */
export async function readInboxRows(
  places: readonly InboxPlace[],
  source: string,
  events: readonly { id: string; key: string }[],
): Promise<InboxAnswer> {
  const answer: InboxAnswer = { asked: [], problems: [], done: new Map(), subscribed: new Map() }
  await Promise.all(places.map((place) => askOne(place, source, events, answer)))
  return answer
}

async function askOne(
  { name: place, config }: InboxPlace,
  source: string,
  events: readonly { id: string; key: string }[],
  answer: InboxAnswer,
): Promise<void> {
  try {
    await withReader(config, 'outrider find', async (client) => {
      const may = await mayReadInbox(client)
      if (may !== 'yes') {
        answer.problems.push({ place, problem: PROBLEMS[may], unreachable: false })
        return
      }
      const groups = await client.query<{ group: string; key: string }>(
        'select consumer_group as group, stream_key as key from outrider.subscription where stream_key = any ($1)',
        [[...new Set(events.map(({ key }) => key))]],
      )
      for (const { group, key } of groups.rows) {
        answer.subscribed.set(key, (answer.subscribed.get(key) ?? new Set()).add(group))
      }
      // Groups of a loop of one's own need not have subscribed, and are few.
      const { rows } = await client.query<{ id: string; group: string; at: Date }>(
        `with recursive named (consumer_group) as (
           (select consumer_group from outrider.inbox order by 1 limit 1)
           union all
           select (select i.consumer_group from outrider.inbox as i where i.consumer_group > named.consumer_group
                   order by 1 limit 1)
           from named where named.consumer_group is not null
         )
         select i.id, i.consumer_group as group, processed_at as at from named join outrider.inbox as i using (consumer_group)
         where source = $1 and id = any ($2)`,
        [source, events.map(({ id }) => id)],
      )
      for (const { id, group, at } of rows) answer.done.set(`${id} ${group}`, { at, place })
      answer.asked.push(place)
    })
  } catch (error) {
    answer.problems.push({ place, problem: (error as Error).message, unreachable: true })
  }
}
