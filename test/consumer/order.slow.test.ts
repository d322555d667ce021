import { expect } from 'vitest'
import { seeded } from '../../testkit/oracle/writer.js'
import { until } from '../../testkit/services/index.js'
import { backlog } from './backlog.js'
import { type ConsumerEnv, consumerTest as test } from './consumer-env.js'
import { GROUP } from './happened.js'
import { Subjects } from './subjects.js'
import { WorkerProcess, widenEffects } from './worker-process.js'

const SUBJECTS = 200
const PARTITIONS = 8
const PORTION = 500
const HOLDS = 'this worker holds the partition'
const LOST = 'another worker holds this partition now'

interface Lease {
  stream_key: string
  epoch: string
  worker: string | null
  live: boolean
}

const leases = async ({ pool }: ConsumerEnv): Promise<Lease[]> => {
  const text = `select stream_key, epoch, worker, coalesce(expires_at > clock_timestamp(), false) as live
    from outrider.subscription where consumer_group = $1 order by 1`
  return (await pool.query<Lease>(text, [GROUP])).rows
}

/** The epochs of a stream that a worker was the holder in. */
const epochsOf = (worker: WorkerProcess, key: string): number[] =>
  worker.said(HOLDS).flatMap(({ stream, epoch }) => (stream === key ? [Number(epoch)] : []))

const isHolder = (worker: WorkerProcess, { stream_key, epoch }: Lease): boolean =>
  epochsOf(worker, stream_key).at(-1) === Number(epoch)

test(`${SUBJECTS} subjects, workers join, freeze, are killed, thaw and leave: each subject's effects stay in order`, async ({
  env,
  onTestFinished,
}) => {
  const seed = Number(process.env.OUTRIDER_TEST_SEED ?? Date.now() % 1_000_000)
  console.log(`seed ${seed} (OUTRIDER_TEST_SEED repeats it)`)
  await widenEffects(env.pool)
  const settings = { name: 'things', partitions: PARTITIONS, subjects: SUBJECTS, random: seeded(seed) }
  const subjects = await Subjects.create(env, settings)
  const all: WorkerProcess[] = []
  onTestFinished(async () => void (await Promise.all(all.map((worker) => worker.kill()))))
  const join = () => {
    const worker = new WorkerProcess({
      ...{ name: `worker-${all.length + 1}`, postgres: env.database.url, redis: env.server.url, group: GROUP },
      ...{ streams: ['things'], ordered: true, concurrency: 8, claimAfter: 2_000, slow: 3 },
    })
    all.push(worker)
    return worker.started()
  }
  const told = () => all.map((worker) => worker.tail()).join('\n')
  const effects = async () => (await env.pool.query('select count(*)::int as n from effect')).rows[0].n as number
  /** In the middle of the work. */
  const working = async () => {
    const before = await effects()
    await subjects.append(PORTION)
    await until(async () => (await effects()) > before + PORTION / 5, { message: told })
  }
  /** Every partition has a live holder, and these share them evenly. */
  const balanced = (...workers: WorkerProcess[]) => {
    let found: Lease[] = []
    return until(
      async () => {
        found = await leases(env)
        const shares = workers.map((worker) => found.filter((lease) => lease.live && isHolder(worker, lease)).length)
        const all = shares.reduce((sum, share) => sum + share, 0) === PARTITIONS
        return all && new Set(found.map(({ worker }) => worker)).size === workers.length && spread(shares) <= 1
      },
      { message: () => `${workers.length} to share all: ${JSON.stringify(found)}\n${told()}` },
    )
  }

  const killed = await join()
  await working()
  const frozen = await join()
  await working()
  await balanced(killed, frozen)
  const leaving = await join()
  await working()
  await balanced(killed, frozen, leaving)

  await working()
  const { open, held: before } = await freezeInTransactions(env, frozen, subjects)
  await subjects.append(PORTION)
  await balanced(killed, leaving)
  frozen.signal('SIGCONT')
  await until(() => before.every(({ stream_key }) => frozen.said(LOST).some(({ stream }) => stream === stream_key)), {
    message: () => `the thawed worker to see what it has lost\n${frozen.tail()}`,
  })
  await working()
  await balanced(killed, frozen, leaving)

  await working()
  await until(
    async () => {
      const held = (await leases(env)).filter((lease) => isHolder(killed, lease))
      if ((await subjects.failed(held.map(({ stream_key }) => stream_key))) > 2) return true
      // What has failed may be done before it is seen.
      await subjects.append(PORTION / 5)
      return false
    },
    { message: () => `events in backoff\n${told()}` },
  )
  await killed.kill()
  await balanced(frozen, leaving)
  const joined = await join()
  await working()
  expect(await leaving.stop()).toBe(0)
  const last = await join()
  await subjects.append(PORTION)
  await until(async () => (await backlog(env, subjects.keys)).left === 0, { message: told })
  await balanced(frozen, joined, last)
  await subjects.judge()

  // The faults bit: transactions were open while the lease moved on, it did not come back with them, and events went on
  // elsewhere from where they had failed.
  expect(open).toBeGreaterThan(0)
  expect(before.length).toBeGreaterThan(0)
  for (const { stream_key, epoch } of before) {
    const later = epochsOf(frozen, stream_key).filter((own) => own > Number(epoch))
    expect(Math.min(...later)).toBeGreaterThan(Number(epoch) + 1)
  }
  for (const { stream_key, epoch } of await leases(env))
    expect({ stream_key, moved: Number(epoch) > 1 }).toEqual({ stream_key, moved: true })
  expect(await movedInBackoff(env, all)).toBeGreaterThan(0)
  expect(await Promise.all([frozen, joined, last].map((worker) => worker.stop()))).toEqual([0, 0, 0])
})

const spread = (shares: number[]): number => Math.max(...shares) - Math.min(...shares)

/** Stops it while transactions of its are open, so that they stay open; how many, and the leases that it had then. */
async function freezeInTransactions(
  env: ConsumerEnv,
  worker: WorkerProcess,
  subjects: Subjects,
): Promise<{ open: number; held: Lease[] }> {
  const text = `select count(*) filter (where state = 'active')::int as active,
      count(*) filter (where state = 'idle in transaction' and query like '%pg_sleep%')::int as open
    from pg_stat_activity where application_name = $1`
  const state = async () => (await env.pool.query<{ active: number; open: number }>(text, [worker.name])).rows[0]
  return until(
    async () => {
      worker.signal('SIGSTOP')
      await until(async () => (await state())?.active === 0)
      const open = (await state())?.open ?? 0
      const held = (await leases(env)).filter((lease) => isHolder(worker, lease))
      if (open > 0 && held.length > 0) return { open, held }
      worker.signal('SIGCONT')
      // All may be done already.
      await subjects.append(PORTION / 5)
      return undefined
    },
    { message: () => `${worker.name} to be frozen with open transactions` },
  )
}

/** How many events failed with one worker and were done by another. */
async function movedInBackoff({ pool }: ConsumerEnv, workers: WorkerProcess[]): Promise<number> {
  const { rows } = await pool.query<{ event: string; worker: string }>(
    'select event, worker from effect where attempt > 1',
  )
  const doers = new Map(rows.map(({ event, worker }) => [event, worker]))
  return workers.flatMap((worker) =>
    worker.said('an attempt failed').filter(({ event }) => doers.get(event as string) !== worker.name),
  ).length
}
