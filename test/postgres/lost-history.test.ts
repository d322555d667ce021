import { afterEach, beforeEach, expect, test } from 'vitest'
import { recordLostHistory } from '../../src/postgres/state/lost-history.js'
import { type BucketsEnv, createBucketsEnv } from './buckets-env.js'

let env: BucketsEnv

beforeEach(async () => {
  env = await createBucketsEnv()
})

afterEach(() => env.close())

const one = async (sql: string, values: unknown[] = []) => (await env.client.query(sql, values)).rows[0]
const snapshot = async (): Promise<string> => (await one('select pg_current_snapshot()::text as s')).s

async function gap(bounds: Record<string, string | null>): Promise<{ lineage: string; id: string }> {
  const { lineage, id } = await one(
    `insert into outrider.incident (lineage, kind, reason) select lineage, 'gap', 'stream_behind' from outrider.lineage
     returning lineage, id::text`,
  )
  for (const [key, bound] of Object.entries(bounds)) {
    await env.client.query('insert into outrider.gap_stream (incident, stream_key, snapshot) values ($1, $2, $3)', [
      id,
      key,
      bound,
    ])
  }
  return { lineage, id }
}

const recorded = async () =>
  (await env.client.query("select detail from outrider.incident where reason = 'history_lost'")).rows.map(
    ({ detail }) => detail,
  )

test('of a gap those streams are named, once, whose bound does not reach what was emptied', async () => {
  const older = await snapshot()
  // One transaction is open at this bound, and is seen by what was emptied.
  const writer = await env.database.connect()
  await writer.query('begin; select pg_current_xact_id()')
  await env.insert(4)
  const open = await snapshot()
  await writer.query('commit')
  await writer.end()
  await env.insert(3)
  await env.checkpoint(80)
  const covered = await snapshot()
  const { lineage, id } = await gap({ all: null, older, open, covered })
  expect(await recordLostHistory(env.client, lineage, id)).toBeUndefined()
  await env.client.query('update outrider.incident set closed_at = now()')
  expect(await env.empty(3)).toBeNull()
  await env.client.query('update outrider.incident set closed_at = null')
  const lost = { gap: id, streams: 3, first: ['all', 'older', 'open'], emptied_until: expect.any(String) }
  const first = await recordLostHistory(env.client, lineage, id)
  expect(first).toMatchObject({ streams: 3 })
  expect(await recorded()).toEqual([lost])
  expect(await recordLostHistory(env.client, lineage, id)).toEqual(first)
  expect(await recorded()).toHaveLength(1)
})

test('a lineage that began after the rows that were emptied has lost nothing of them', async () => {
  await env.insert(3)
  await env.client.query('update outrider.lineage set first_snapshot = pg_current_snapshot()')
  await env.insert(4)
  await env.checkpoint(80)
  await env.client.query('update outrider.lineage set first_snapshot = pg_current_snapshot()')
  expect(await env.empty(3)).toBeNull()
  const { lineage, id } = await gap({ orders: null })
  expect(await recordLostHistory(env.client, lineage, id)).toBeUndefined()
})

test('a stream that was trimmed past what was emptied has lost nothing, but for an event that had left it unfinished', async () => {
  await env.insert(3)
  await env.checkpoint(80)
  const moved = await one('select id::text from outrider.outbox where bucket = 3')
  await env.insert(4)
  const { id: stays } = await one('select id::text from outrider.outbox where bucket = 4')
  const { lineage, id } = await gap({ finished: null, left: null, waiting: null })
  await env.client.query('update outrider.incident set closed_at = now()')
  expect(await env.empty(3)).toBeNull()
  await env.client.query('update outrider.incident set closed_at = null')
  await env.client.query(
    `insert into outrider.horizon (lineage, stream_key, lsn, snapshot)
     select $1, key, '0/1', pg_current_snapshot() from unnest(array['finished', 'left', 'waiting']) as key`,
    [lineage],
  )
  await env.client.query(
    `insert into outrider.moved_event (lineage, stream_key, event_id)
     values ($1, 'left', $2), ($1, 'waiting', $3), ($1, 'finished', 'of-no-outbox')`,
    [lineage, moved.id, stays],
  )
  await recordLostHistory(env.client, lineage, id)
  expect(await recorded()).toMatchObject([{ streams: 1, first: ['left'] }])
})
