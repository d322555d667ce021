import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { readBuckets } from '../../src/postgres/outbox/buckets.js'
import { readGrowth } from '../../src/postgres/outbox/growth.js'
import { retentionHolders } from '../../src/postgres/outbox/retention-holders.js'
import { type BucketsEnv, createBucketsEnv } from './buckets-env.js'

const HOUR = 3_600_000

let env: BucketsEnv
let lineage: string

beforeEach(async () => {
  env = await createBucketsEnv()
  lineage = (await env.client.query('select lineage from outrider.lineage')).rows[0].lineage
})

afterEach(() => env.close())

/** As the relay may. */
async function growth() {
  await env.client.query('set role outrider_relay')
  try {
    return await readGrowth(env.client, lineage, (await readBuckets(env.client)).buckets)
  } finally {
    await env.client.query('reset role')
  }
}

test('rows are those of the statistics, and the oldest is as old as the first checkpoint that sees it', async () => {
  expect(await growth()).toEqual({ rows: 0, oldestMs: undefined })
  await env.insert(3)
  expect((await growth()).oldestMs).toBeUndefined()
  await env.checkpoint(80)
  // What a writer says counts for nothing.
  for (let n = 0; n < 4; n++) await env.insert(4, env.client, '2001-01-01')
  await env.checkpoint(10)
  await env.client.query('select pg_stat_force_next_flush()')
  const before = await growth()
  expect(before.rows).toBe(5)
  expect((before.oldestMs ?? 0) / HOUR).toBeCloseTo(80, 1)
  expect(await env.empty(3)).toBeNull()
  const after = await growth()
  expect(after.rows).toBe(4)
  expect((after.oldestMs ?? 0) / HOUR).toBeCloseTo(10, 1)
})

test('each lineage that keeps rows from being emptied is named, with its reason', async () => {
  const other = randomUUID()
  await env.client.query(
    `insert into outrider.lineage (lineage, slot, publication, source, outbox_table, system_id, timeline, publication_state, created_at)
     select $1, 'another', publication, source, outbox_table, system_id, timeline, publication_state, now() - interval '9 days'
     from outrider.lineage`,
    [other],
  )
  const held = async () =>
    (await retentionHolders(env.client, 72 * HOUR)).map(({ slot, reason, ageMs }) => [
      slot,
      reason,
      Math.round(ageMs / HOUR / 24),
    ])
  expect(await held()).toEqual([
    ['another', 'checkpoint', 9],
    [env.slot, 'checkpoint', 0],
  ])
  await env.checkpoint(80)
  await env.client.query(
    'insert into outrider.checkpoint (lineage, lsn, snapshot, taken_at) select $1, lsn, snapshot, taken_at from outrider.checkpoint',
    [other],
  )
  expect(await held()).toEqual([['another', 'slot', 9]])
  await env.client.query("insert into outrider.incident (lineage, kind, reason) values ($1, 'gap', 'slot_missing')", [
    other,
  ])
  expect(await held()).toEqual([['another', 'gap', 9]])
  await env.client.query('update outrider.lineage set retired_at = now() where lineage = $1', [other])
  expect(await held()).toEqual([])
})
