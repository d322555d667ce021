import { randomBytes } from 'node:crypto'
import { expect } from 'vitest'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import { until } from '../../testkit/services/index.js'
import { saved } from './redis-loss-env.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { checkpoint, holdRepair, REPAIR, repaired } from './repair-env.js'

const CURRENT = 12
const OLD = 3
const RECENT = 10

async function insert(env: RelayEnv, bucket: number, stream = 'orders', data: unknown = {}): Promise<string> {
  const { rows } = await env.postgres.query(
    'insert into outrider.outbox (stream, type, data, bucket) values ($1, $2, $3, $4) returning id',
    [stream, 'test.happened', JSON.stringify(data), bucket],
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
async function published(env: RelayEnv, hours: number, count = 3, data: unknown = {}): Promise<string[]> {
  await freeze(env)
  const relay = await env.streamingRelay({ OUTRIDER_RETENTION: '0' })
  const ids: string[] = []
  for (let n = 0; n < count; n++) ids.push(await insert(env, OLD, 'orders', data))
  await saved(env, 1, ids.at(-1))
  await checkpoint(env)
  await env.postgres.query('update outrider.checkpoint set taken_at = taken_at - make_interval(hours => $1)', [hours])
  expect(await relay.stop()).toBe(0)
  return ids
}

const emptied = (env: RelayEnv, bucket: number) =>
  until(async () => (await idsOf(env, bucket)).length === 0, { message: `bucket ${bucket} to be emptied` })

test('a new installation empties what is published and older than 72 h by itself, and keeps the rest', async ({
  env,
}) => {
  const old = await published(env, 73)
  const recent = [await insert(env, RECENT), await insert(env, CURRENT)]
  const relay = await env.streamingRelay()
  await emptied(env, OLD)
  await until(async () => (await relay.metric('outrider_outbox_buckets_emptied_total')) === 1)
  expect(await idsOf(env, RECENT)).toEqual([recent[0]])
  expect(await idsOf(env, CURRENT)).toEqual([recent[1]])
  await until(async () => (await env.ids('orders')).length === 5)
  expect(await env.ids('orders')).toEqual([...old, ...recent])
  // Set at the end of the round.
  await until(async () => (await relay.metric('outrider_outbox_retention_seconds')) === 72 * 3_600)
  expect(await relay.metric('outrider_outbox_bytes')).toBeGreaterThan(0)
})

test('what a repair cannot put back, because it was emptied, is an incident, and all that is kept is put back', async ({
  env,
}) => {
  await published(env, 73)
  const kept = [await insert(env, RECENT), await insert(env, CURRENT)]
  const relay = await env.streamingRelay(REPAIR)
  await emptied(env, OLD)
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

test('an installation from before retention keeps its rows, and says so, until its settings ask for it', async ({
  env,
}) => {
  const ids = await published(env, 73)
  await env.postgres.query('update outrider.lineage set predates_retention = true')
  const relay = await env.streamingRelay()
  const [line] = await relay.logged(({ reason }) => reason === 'not_asked')
  expect(line?.msg).toContain('set `retention: default`')
  expect(await idsOf(env, OLD)).toEqual(ids)
  expect(await relay.stop()).toBe(0)
  await env.streamingRelay({ OUTRIDER_RETENTION: 'default' })
  await emptied(env, OLD)
})

test('a table that is larger than it may be is emptied before the window, as far as it is published', async ({
  env,
}) => {
  await published(env, 30, 4, randomBytes(450_000).toString('hex'))
  const recent = await insert(env, RECENT, 'orders', randomBytes(450_000).toString('hex'))
  const relay = await env.streamingRelay({ OUTRIDER_RETENTION_MAX_SIZE: '3MiB' })
  await emptied(env, OLD)
  expect(await idsOf(env, RECENT)).toEqual([recent])
  await until(async () => ((await relay.metric('outrider_outbox_retention_seconds')) ?? 72 * 3_600) < 72 * 3_600)
  await relay.logged(({ msg }) => String(msg).includes('it was larger than `retentionMaxSize`'))
})

test('a transaction that keeps a due bucket in use is named, and the bucket stays', async ({ env }) => {
  const ids = await published(env, 73)
  const reader = await env.database.connect()
  await reader.query("set application_name = 'nightly-export'; begin; select from outrider.outbox_23")
  // By the numbers of buckets, the oldest.
  await env.postgres.query(
    `create or replace function outrider.bucket() returns smallint language sql volatile parallel safe return ${OLD - 2}::smallint`,
  )
  await reader.query(`select from outrider.outbox_${OLD}`)
  const relay = await env.streamingRelay()
  const [line] = await relay.logged(({ reason }) => reason === 'in_use')
  expect(line?.holders).toContain('nightly-export')
  expect(await relay.metric('outrider_outbox_retention_blocked{reason="in_use"}')).toBe(1)
  expect(await idsOf(env, OLD)).toEqual(ids)
  await reader.end()
})
