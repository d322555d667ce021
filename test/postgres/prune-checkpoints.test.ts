import { afterEach, beforeEach, expect, test } from 'vitest'
import { pruneCheckpoints } from '../../src/postgres/state/checkpoints.js'
import { type BucketsEnv, createBucketsEnv } from './buckets-env.js'

const WINDOW_MS = 72 * 3_600_000
const MINUTES = 10

let env: BucketsEnv
let lineage: string

/** A checkpoint every ten minutes for 20 days, up to now. */
beforeEach(async () => {
  env = await createBucketsEnv()
  const { rows } = await env.client.query(
    `insert into outrider.checkpoint (lineage, lsn, snapshot, taken_at)
     select lineage, '0/0'::pg_lsn + (1000000 - age), '3:3:', date_trunc('hour', clock_timestamp()) - make_interval(mins => age * $1)
     from outrider.lineage, generate_series(0, 20 * 24 * 6 - 1) as age returning lineage`,
    [MINUTES],
  )
  lineage = rows[0].lineage
})

afterEach(() => env.close())

/** Ages, in hours, newest first. */
async function ages(): Promise<number[]> {
  const { rows } = await env.client.query(
    `select extract(epoch from date_trunc('hour', clock_timestamp()) - taken_at)::float8 / 3600 as age
     from outrider.checkpoint order by lsn desc`,
  )
  return rows.map(({ age }) => age)
}

test('all of a day are kept, then one an hour up to four days beyond the window, and the newest before', async () => {
  const before = await ages()
  expect(await pruneCheckpoints(env.client, lineage, WINDOW_MS)).toBeGreaterThan(2_000)
  const kept = await ages()
  expect(kept.filter((age) => age < 23)).toEqual(before.filter((age) => age < 23))
  const older = kept.filter((age) => age > 25 && age < 167)
  expect(older).toHaveLength(142)
  // The newest of each hour.
  for (const age of older) expect(age - Math.floor(age)).toBeCloseTo(1 / 6)
  const beyond = kept.filter((age) => age > 169)
  expect(beyond).toEqual([before.at(-1)])
  expect(kept.filter((age) => age >= 167 && age <= 169).length).toBeGreaterThan(0)
  expect(await pruneCheckpoints(env.client, lineage, WINDOW_MS)).toBe(0)
})

test('while rows stay, one an hour stays without end', async () => {
  await pruneCheckpoints(env.client, lineage, undefined)
  const kept = await ages()
  expect(kept.filter((age) => age > 25).length).toBeGreaterThan(450)
})

test('those of another lineage stay', async () => {
  const before = await ages()
  expect(await pruneCheckpoints(env.client, '00000000-0000-4000-8000-000000000000', WINDOW_MS)).toBe(0)
  expect(await ages()).toEqual(before)
})
