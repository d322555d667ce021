import { expect, onTestFinished, test } from 'vitest'
import { emptyBucket, readBuckets } from '../../src/postgres/outbox/buckets.js'
import { setBucketWidth } from '../../src/postgres/setup/bucket-width.js'
import { planRetention } from '../../src/relay/retention/retention-plan.js'
import { createBucketsEnv } from './buckets-env.js'

const HOUR = 3_600_000
const RETENTION = 168 * HOUR
const HOURS = 10

test('`retention: 7d` reaches a flat size: setup makes the buckets last for ten hours', async () => {
  const env = await createBucketsEnv()
  onTestFinished(() => env.close())
  await setBucketWidth(env.client, RETENTION)
  const settings = { retention: RETENTION, retentionMaxSize: Number.POSITIVE_INFINITY, isRetentionSet: true }
  /** How many buckets have rows after each turn. */
  const filled: number[] = []
  for (let turn = 0; turn < 42; turn++) {
    await env.setCurrent(turn % 24)
    await env.insert(turn % 24)
    await env.client.query(
      `update outrider.checkpoint set taken_at = taken_at - make_interval(hours => ${HOURS});
       insert into outrider.checkpoint (lineage, lsn, snapshot, taken_at)
       select lineage, pg_current_wal_insert_lsn(), pg_current_snapshot(), clock_timestamp() - make_interval(hours => ${HOURS})
       from outrider.lineage`,
    )
    if (turn % 12 === 0)
      await env.client.query('select pg_replication_slot_advance($1, pg_current_wal_flush_lsn())', [env.slot])
    const facts = await readBuckets(env.client)
    const plan = planRetention(facts, settings, true)
    if (plan.action !== 'empty') throw new Error(`Expected buckets to be asked for, found ${plan.reason}.`)
    // The relay asks for all of them. Those are the oldest.
    for (const bucket of plan.buckets.slice(0, 3)) await emptyBucket(env.client, bucket, plan.windowMs)
    filled.push((await readBuckets(env.client)).buckets.filter(({ isEmpty }) => !isEmpty).length)
  }
  // Rows are 170 hours old when they go.
  expect(filled.slice(0, 16)).toEqual(Array.from({ length: 16 }, (_, turn) => turn + 1))
  expect(new Set(filled.slice(16))).toEqual(new Set([16]))
})
