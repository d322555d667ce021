import fc from 'fast-check'
import type pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { until } from '../../testkit/services/index.js'
import { createInboxEnv, type InboxEnv } from './inbox-env.js'

/** A stream's partitions of one group, and the workers that share them. */
interface Subscriptions {
  group: string
  stream: string
  keys: string[]
}

let env: InboxEnv
let client: pg.Client
let count = 0

beforeAll(async () => {
  env = await createInboxEnv()
  client = await env.worker()
})

afterAll(async () => {
  await client.end()
  await env.close()
})

let group: string
beforeEach(() => {
  group = `group-${++count}`
})

async function subscribe(partitions: number, stream = 'things'): Promise<Subscriptions> {
  const keys = Array.from({ length: partitions }, (_, n) => (partitions === 1 ? stream : `${stream}:${n}`))
  const text = 'insert into outrider.subscription (consumer_group, stream_key) select $1, unnest($2::text[])'
  await client.query(text, [group, keys])
  return { group, stream, keys }
}

interface Held {
  stream_key: string
  epoch: string
  target: number
}

async function renew(of: Subscriptions, name: string, ttl = '1 hour', by = client): Promise<Held[]> {
  const values = [of.group, of.stream, JSON.stringify(of.keys), name, ttl]
  return (await by.query<Held>('select * from outrider.renew_leases($1, $2, $3, $4, $5)', values)).rows
}

const giveBack = (of: Subscriptions, name: string, keys: readonly string[]) =>
  client.query(
    `update outrider.subscription set worker = null
     where consumer_group = $1 and worker = $2 and stream_key = any ($3::text[])`,
    [of.group, name, keys],
  )

async function leave(of: Subscriptions, name: string): Promise<void> {
  await giveBack(of, name, of.keys)
  await client.query('delete from outrider.worker where consumer_group = $1 and worker = $2', [of.group, name])
}

/** As if the worker had been frozen for longer than its leases last. */
async function expire(of: Subscriptions, name: string): Promise<void> {
  for (const table of ['subscription', 'worker']) {
    const text = `update outrider.${table} set expires_at = clock_timestamp() - interval '1 second'
      where consumer_group = $1 and worker = $2`
    await env.owner.query(text, [of.group, name])
  }
}

/** Holder and epoch by key. */
async function table(of: Subscriptions): Promise<Map<string, { worker: string | null; epoch: number }>> {
  const text = `select stream_key, worker, epoch::int from outrider.subscription
    where consumer_group = $1 and stream_key = any ($2::text[])`
  const { rows } = await env.owner.query(text, [of.group, of.keys])
  return new Map(rows.map(({ stream_key, worker, epoch }) => [stream_key, { worker, epoch }]))
}

/** Renews as a worker does, which gives back what is above its share; what it still holds. */
async function look(of: Subscriptions, name: string): Promise<string[]> {
  const held = await renew(of, name)
  const surplus = held.slice(held[0]?.target ?? 0).map(({ stream_key }) => stream_key)
  await giveBack(of, name, surplus)
  return held.map(({ stream_key }) => stream_key).filter((key) => !surplus.includes(key))
}

const NAMES = ['a', 'b', 'c', 'd', 'e']

describe('the partitions of a stream', () => {
  const step = fc.record({
    kind: fc.constantFrom('look', 'look', 'look', 'leave', 'expire'),
    name: fc.constantFrom(...NAMES),
  })
  const plan = fc.record({
    partitions: fc.constantFrom(1, 3, 8, 16),
    steps: fc.array(step, { maxLength: 20 }),
    order: fc.shuffledSubarray(NAMES, { minLength: 1 }),
  })

  test('are shared fairly whoever comes and goes, never held by two, each under an epoch of its own', async () => {
    const seed = Number(process.env.OUTRIDER_TEST_SEED ?? Date.now() % 2 ** 31)
    let runs = 0
    const property = fc.asyncProperty(plan, async ({ partitions, steps, order }) => {
      group = `property-${++count}`
      const of = await subscribe(partitions)
      /** What each worker that is not frozen believes to hold. */
      const beliefs = new Map<string, string[]>()
      const act = async (kind: string, name: string) => {
        const before = await table(of)
        if (kind === 'look') beliefs.set(name, await look(of, name))
        else beliefs.delete(name)
        if (kind === 'leave') await leave(of, name)
        if (kind === 'expire') await expire(of, name)
        const after = await table(of)
        for (const key of of.keys) {
          const [was, is] = [before.get(key), after.get(key)] as const
          const isNew = kind === 'look' && is?.worker === name && was?.worker !== name
          expect(is?.epoch, `${key} after ${kind} of ${name}`).toBe((was?.epoch ?? 0) + (isNew ? 1 : 0))
        }
        const all = [...beliefs.values()].flat()
        expect(new Set(all).size, 'held by two').toBe(all.length)
        for (const [who, keys] of beliefs) for (const key of keys) expect(after.get(key)?.worker).toBe(who)
      }
      for (const { kind, name } of steps) await act(kind, name)
      // From here on nothing happens any more: those that are there look again, those that are not have left, or died.
      for (const [n, name] of NAMES.entries()) {
        if (!order.includes(name)) await act(n % 2 === 0 ? 'leave' : 'expire', name)
      }
      for (let round = 0; round < 3; round++) for (const name of order) await act('look', name)
      const shares = order.map((name) => beliefs.get(name)?.length ?? 0)
      expect(shares.reduce((sum, share) => sum + share)).toBe(partitions)
      expect(Math.max(...shares) - Math.min(...shares), `${shares}`).toBeLessThanOrEqual(1)
      // And so it stays.
      const settled = await table(of)
      for (const name of order.toReversed()) await act('look', name)
      expect(await table(of)).toEqual(settled)
      runs++
    })
    await fc.assert(property, { seed, numRuns: 25, interruptAfterTimeLimit: 120_000, markInterruptAsFailure: false })
    expect(runs).toBeGreaterThan(10)
  })

  test('are taken by the first that comes, and half of them pass on when a second one does', async () => {
    const of = await subscribe(8)
    expect(await renew(of, 'a')).toEqual(of.keys.map((stream_key) => ({ stream_key, epoch: '1', target: 8 })))
    // Nothing is free yet: the first one learns at its next look that it has more than its share.
    expect(await renew(of, 'b')).toEqual([])
    expect(await look(of, 'a')).toHaveLength(4)
    expect(await renew(of, 'b')).toEqual(of.keys.slice(4).map((stream_key) => ({ stream_key, epoch: '2', target: 4 })))
  })

  test('that no one subscribed to are not leased, nor are those of another group', async () => {
    const of = await subscribe(2)
    expect(await renew({ ...of, keys: [...of.keys, 'things:2'] }, 'a')).toHaveLength(2)
    expect(await renew({ ...of, group: `${group}-other` }, 'a')).toEqual([])
  })

  test('several streams of one partition do not all go to one worker', async () => {
    const all: Subscriptions[] = []
    for (let n = 0; n < 12; n++) all.push(await subscribe(1, `stream-${n}`))
    for (let round = 0; round < 3; round++) {
      for (const name of ['a', 'b', 'c']) for (const of of all) await look(of, name)
    }
    const holders: (string | null | undefined)[] = []
    for (const of of all) holders.push((await table(of)).get(of.stream)?.worker)
    expect(new Set(holders)).toEqual(new Set(['a', 'b', 'c']))
    for (const name of ['a', 'b', 'c']) expect(holders.filter((holder) => holder === name).length).toBeLessThan(9)
  })
})

describe('a lease', () => {
  test('runs out by the clock of the database, and not before', async () => {
    const of = await subscribe(1)
    await renew(of, 'a', '2 seconds')
    const clock = async () =>
      Number((await env.owner.query('select extract(epoch from clock_timestamp()) as at')).rows[0].at)
    const began = await clock()
    const [taken] = await until(async () => {
      const held = await renew(of, 'b')
      return held.length > 0 && held
    })
    expect(await clock()).toBeGreaterThan(began + 1.9)
    expect(taken).toEqual({ stream_key: 'things', epoch: '2', target: 1 })
    expect(await renew(of, 'a')).toEqual([])
  })

  test('lives as long as it is renewed, under the same epoch', async () => {
    const of = await subscribe(3)
    await renew(of, 'a')
    for (let n = 0; n < 3; n++) {
      await expire(of, 'a')
      expect(await renew(of, 'a')).toEqual(of.keys.map((stream_key) => ({ stream_key, epoch: '1', target: 3 })))
    }
    expect(await renew(of, 'b')).toEqual([])
  })

  test('that was given back is taken under a new epoch, also by the one that had it', async () => {
    const of = await subscribe(1)
    await renew(of, 'a')
    await giveBack(of, 'a', of.keys)
    expect(await renew(of, 'a')).toEqual([{ stream_key: 'things', epoch: '2', target: 1 }])
  })
})

test('workers that look at the same time take turns: each decides by what the others hold', async () => {
  const of = await subscribe(16)
  const clients = await Promise.all(NAMES.map(() => env.worker()))
  onTestFinished(async () => void (await Promise.all(clients.map((each) => each.end()))))
  const [first, ...others] = clients as [pg.Client, ...pg.Client[]]
  await first.query('begin')
  expect(await renew(of, 'a', '1 hour', first)).toHaveLength(16)
  const waiting = others.map((each, n) => renew(of, NAMES[n + 1] as string, '1 hour', each))
  const pids = others.map((each) => (each as unknown as { processID: number }).processID)
  await until(async () => {
    const text =
      "select from pg_stat_activity where pid = any ($1) and wait_event_type = 'Lock' and wait_event = 'advisory'"
    return (await env.owner.query(text, [pids])).rowCount === 4
  })
  await first.query('commit')
  expect(await Promise.all(waiting)).toEqual([[], [], [], []])

  for (let round = 0; round < 20; round++) {
    const held = await Promise.all(clients.map((each, n) => renew(of, NAMES[n] as string, '1 hour', each)))
    const keys = held.flat().map(({ stream_key }) => stream_key)
    expect(new Set(keys).size).toBe(keys.length)
    for (const [n, rows] of held.entries()) {
      const surplus = rows.slice(rows[0]?.target ?? 0).map(({ stream_key }) => stream_key)
      await giveBack(of, NAMES[n] as string, surplus)
    }
  }
  const holders = [...(await table(of)).values()].map((lease) => lease.worker)
  const shares = NAMES.map((name) => holders.filter((holder) => holder === name).length)
  expect(shares.toSorted()).toEqual([3, 3, 3, 3, 4])
})
