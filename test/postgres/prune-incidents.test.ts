import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { pruneIncidents } from '../../src/postgres/state/pruning.js'
import { type BucketsEnv, createBucketsEnv } from './buckets-env.js'

let env: BucketsEnv
let lineage: string

beforeEach(async () => {
  env = await createBucketsEnv()
  lineage = (await env.client.query('select lineage from outrider.lineage')).rows[0].lineage
})

afterEach(() => env.close())

interface Closed {
  days: number
  kind?: string
  event?: string
  of?: string
}

let positions = 0

async function closed({ days, kind = 'operator', event, of = lineage }: Closed): Promise<string> {
  const { rows } = await env.client.query(
    `insert into outrider.incident (lineage, kind, reason, event_id, position, opened_at, closed_at)
     values ($1, $2, 'test', $3, $4, now() - make_interval(days => $5), now() - make_interval(days => $5)) returning id::text`,
    [of, kind, event ?? null, String(positions++), days],
  )
  return rows[0].id
}

const left = async () =>
  (await env.client.query('select id::text from outrider.incident order by id')).rows.map(({ id }) => id)

test('incidents go when they were closed 90 days ago; open ones and those of another lineage that publishes stay', async () => {
  const other = randomUUID()
  await env.client.query(
    `insert into outrider.lineage (lineage, slot, publication, source, outbox_table, system_id, timeline, publication_state)
     select $1, 'other', publication, source, outbox_table, system_id, timeline, publication_state from outrider.lineage`,
    [other],
  )
  await closed({ days: 91 })
  const stay = [await closed({ days: 89 }), await closed({ days: 91, of: other })]
  await env.client.query("insert into outrider.incident (lineage, kind, reason) values ($1, 'gap', 'test')", [lineage])
  expect(await pruneIncidents(env.client, lineage)).toBe(1)
  expect((await left()).slice(0, 2)).toEqual(stay)
  await env.client.query("update outrider.lineage set retired_at = now() where slot = 'other'")
  expect(await pruneIncidents(env.client, lineage)).toBe(1)
  expect(await left()).toHaveLength(2)
})

test('that of a rejected row stays as long as the row, and where that is not known', async () => {
  await env.insert(3)
  await env.checkpoint(80)
  const kept = await env.insert(4)
  const [{ id: gone }] = (await env.client.query('select id::text from outrider.outbox where bucket = 3')).rows
  await closed({ days: 91, kind: 'rejected', event: gone })
  const stay = [
    await closed({ days: 91, kind: 'rejected', event: kept }),
    await closed({ days: 91, kind: 'rejected', event: 'no uuid' }),
    await closed({ days: 91, kind: 'rejected' }),
  ]
  // Nothing was emptied yet, so the row is there.
  expect(await pruneIncidents(env.client, lineage)).toBe(0)
  expect(await env.empty(3)).toBeNull()
  expect(await pruneIncidents(env.client, lineage)).toBe(1)
  expect(await left()).toEqual(stay)
})
