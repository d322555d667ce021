import { expect } from 'vitest'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { until } from '../../testkit/services/index.js'
import { saved } from './redis-loss-env.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { checkpoint, holdRepair, REPAIR, repaired } from './repair-env.js'

const CURRENT = 12
const OLD = 3
const RECENT = 10

async function insert(env: RelayEnv, bucket: number): Promise<string> {
  const { rows } = await env.postgres.query(
    `insert into outrider.outbox (stream, type, bucket) values ('orders', 'test.happened', $1) returning id`,
    [bucket],
  )
  return rows[0].id
}

const idsOf = async (env: RelayEnv, bucket: number): Promise<string[]> =>
  (await env.postgres.query('select id from outrider.outbox where bucket = $1 order by seq', [bucket])).rows.map(
    ({ id }) => id,
  )

/** Inserts go to bucket 12. */
async function freeze(env: RelayEnv): Promise<void> {
  await env.postgres.query(
    `create or replace function outrider.bucket() returns smallint language sql volatile parallel safe return ${CURRENT}::smallint`,
  )
}

/** Events in an old bucket that a relay has published, with a checkpoint that is so many hours old. */
async function published(env: RelayEnv, hours: number): Promise<string[]> {
  await freeze(env)
  const relay = await env.streamingRelay({ OUTRIDER_RETENTION: '0' })
  const ids: string[] = []
  for (let n = 0; n < 3; n++) ids.push(await insert(env, OLD))
  await saved(env, 1, ids.at(-1))
  await checkpoint(env)
  await env.postgres.query('update outrider.checkpoint set taken_at = taken_at - make_interval(hours => $1)', [hours])
  expect(await relay.stop()).toBe(0)
  return ids
}

/** Not asked of the table: who reads it keeps it in use. */
async function emptied(env: RelayEnv, relay: RelayProcess): Promise<void> {
  const isEmptied = async () => (await relay.metric('outrider_outbox_buckets_emptied_total')) === 1
  // On a busy machine a bucket may be in use in one round, and the next one is a minute later.
  await until(isEmptied, { timeout: 150_000, message: 'a bucket to be emptied' })
  expect(await idsOf(env, OLD)).toEqual([])
}

test('a new installation empties what is published and older than 72 h by itself, and keeps the rest', async ({
  env,
}) => {
  const old = await published(env, 73)
  const recent = [await insert(env, RECENT), await insert(env, CURRENT)]
  const relay = await env.streamingRelay()
  await emptied(env, relay)
  expect(await idsOf(env, RECENT)).toEqual([recent[0]])
  expect(await idsOf(env, CURRENT)).toEqual([recent[1]])
  await until(async () => (await env.ids('orders')).length === 5)
  expect(await env.ids('orders')).toEqual([...old, ...recent])
  // Set at the end of the round.
  await until(async () => (await relay.metric('outrider_outbox_retention_seconds')) === 72 * 3_600)
  await until(async () => (await relay.metric('outrider_outbox_bytes')) !== undefined)
  expect(await relay.metric('outrider_outbox_max_bytes')).toBe(50 * 2 ** 30)
  expect(await relay.metric('outrider_outbox_retention_lag_seconds')).toBe(0)
  expect(await relay.metric('outrider_outbox_rows')).toBeDefined()
})

test('what a repair cannot put back, because it was emptied, is an incident, and all that is kept is put back', async ({
  env,
}) => {
  await published(env, 73)
  const kept = [await insert(env, RECENT), await insert(env, CURRENT)]
  const relay = await env.streamingRelay(REPAIR)
  await emptied(env, relay)
  await saved(env, 1, kept.at(-1))
  await env.redis.flushall()
  await until(
    async () => {
      const gap = (await listIncidents(env.postgres, { closed: true })).find(({ kind }) => kind === 'gap')
      return gap !== undefined && gap.closedAt !== null
    },
    { timeout: 120_000, message: 'the gap to be repaired' },
  )
  expect(await env.ids('orders')).toEqual(kept)
  const [incident, ...others] = await listIncidents(env.postgres)
  expect(others).toEqual([])
  expect(incident).toMatchObject({
    kind: 'operator',
    reason: 'history_lost',
    detail: { streams: 1, first: ['orders'], gap: expect.stringMatching(/^\d+$/) },
  })
  await relay.streaming()
})

test('nothing is emptied while a repair is under way: it puts back every row', async ({ env }) => {
  const ids = await published(env, 73)
  const held = await holdRepair(env, 'found')
  await env.redis.flushall()
  await env.relay({ ...REPAIR, OUTRIDER_RETENTION: '0' })
  await held.reached()
  await env.postgres.query('begin isolation level read committed')
  const answer = await env.postgres.query(
    "select outrider.empty_bucket($1::smallint, clock_timestamp() - interval '72h') as refusal",
    [OLD],
  )
  await env.postgres.query('commit')
  expect(answer.rows).toEqual([{ refusal: 'gap' }])
  await held.release()
  await repaired(env)
  expect(await env.ids('orders')).toEqual(ids)
})
