import type pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { until } from '../../testkit/services/index.js'
import { createInboxEnv, type InboxEnv } from './inbox-env.js'

let env: InboxEnv
let one: pg.Client
let two: pg.Client
let group: string
let count = 0

// All that this file uses is permitted to a worker.
beforeAll(async () => {
  env = await createInboxEnv()
})

afterAll(() => env.close())

beforeEach(async () => {
  group = `group-${++count}`
  one = await worker()
  two = await worker()
})

async function worker(): Promise<pg.Client> {
  const client = await env.worker()
  onTestFinished(() => client.end())
  return client
}

const events = (...ids: string[]) => JSON.stringify(ids.map((id) => ({ source: '/shop', id })))

const acceptMany = async (client: pg.Client, ...ids: string[]): Promise<number[]> =>
  (await client.query('select * from outrider.accept_many($1, $2) as m (place)', [group, events(...ids)])).rows.map(
    ({ place }) => place,
  )

const acceptOrdered = async (client: pg.Client, epoch: number, ...ids: string[]): Promise<number[]> => {
  const text = "select * from outrider.accept_ordered($1, $2, 'things:0', $3) as m (place)"
  return (await client.query(text, [group, events(...ids), epoch])).rows.map(({ place }) => place)
}

const renew = (client: pg.Client, name: string) =>
  client.query(`select * from outrider.renew_leases($1, 'things', '["things:0"]', $2, '1 hour')`, [group, name])

/** The group's one lease, as it is when so many have held it. */
const subscribed = (epoch: number) =>
  one.query("insert into outrider.subscription (consumer_group, stream_key, epoch) values ($1, 'things:0', $2)", [
    group,
    epoch,
  ])

/** As if nobody had renewed it. */
const expire = () =>
  env.owner.query("update outrider.subscription set expires_at = '-infinity' where consumer_group = $1", [group])

const inbox = async (): Promise<string[]> =>
  (await env.owner.query('select id from outrider.inbox where consumer_group = $1 order by id', [group])).rows.map(
    ({ id }) => id,
  )

/** Resolves when this client waits for a lock. */
const waits = (client: pg.Client) => {
  const pid = (client as unknown as { processID: number }).processID
  return until(
    async () =>
      (await env.owner.query("select from pg_stat_activity where pid = $1 and wait_event_type = 'Lock'", [pid]))
        .rowCount === 1,
    { message: 'the other one to wait for a lock' },
  )
}

const codeOf = (query: Promise<unknown>): Promise<string | undefined> =>
  query.then(
    () => 'done',
    (error: pg.DatabaseError) => error.code,
  )

describe('accept_many', () => {
  test('returns the places of those to do, in their order', async () => {
    await acceptMany(one, 'c', 'a')
    expect(await acceptMany(one, 'd', 'c', 'b', 'a', 'e')).toEqual([0, 2, 4])
    expect(await inbox()).toEqual(['a', 'b', 'c', 'd', 'e'])
  })

  test('what stands in the array twice is to be done once, at its first place', async () => {
    expect(await acceptMany(one, 'b', 'a', 'b', 'a', 'c')).toEqual([0, 1, 4])
  })

  test('the same id of another source, or for another group, is another event', async () => {
    const text = 'select * from outrider.accept_many($1, $2) as m (place)'
    const both = '[{"source": "/shop", "id": "a"}, {"source": "/mail", "id": "a"}]'
    expect((await one.query(text, [group, both])).rows).toEqual([{ place: 0 }, { place: 1 }])
    expect((await one.query(text, [`${group}-other`, both])).rows).toHaveLength(2)
    expect((await one.query(text, [group, both])).rows).toEqual([])
  })

  test('of nothing there is nothing to do', async () => {
    expect(await acceptMany(one)).toEqual([])
  })

  test('an event without id or source is refused, and nothing is accepted', async () => {
    const text = 'select * from outrider.accept_many($1, $2)'
    for (const event of ['{"source": "/shop"}', '{"id": "b"}', '{"source": "/shop", "id": null}']) {
      expect(await codeOf(one.query(text, [group, `[{"source": "/shop", "id": "a"}, ${event}]`]))).toBe('23502')
    }
    expect(await inbox()).toEqual([])
  })

  test('a rollback lets the events be done again', async () => {
    await one.query('begin')
    expect(await acceptMany(one, 'a', 'b')).toEqual([0, 1])
    await one.query('rollback')
    expect(await acceptMany(two, 'a', 'b')).toEqual([0, 1])
  })

  test('waits for another transaction, and then does what that one has left', async () => {
    await one.query('begin')
    await acceptMany(one, 'b')
    const waiting = acceptMany(two, 'a', 'b', 'c')
    await waits(two)
    await one.query('commit')
    expect(await waiting).toEqual([0, 2])
  })

  test('batches in crossed orders never deadlock, and do each event once', async () => {
    const workers = [one, two, await worker(), await worker()]
    const ids = Array.from({ length: 40 }, (_, n) => `e${n}`)
    for (let round = 0; round < 15; round++) {
      const mine = ids.map((id) => `${round}-${id}`)
      const accepted = await Promise.all(
        workers.map(async (client, n) => {
          // Turned and mirrored, and some among many others: no two would come upon them in the same order.
          const others = Array.from({ length: n < 2 ? 0 : n * 500 }, (_, m) => `${round}-${n}-${m}`)
          const order = [...others, ...mine.slice(n * 10), ...mine.slice(0, n * 10)]
          if (n % 2 === 1) order.reverse()
          await client.query('begin')
          const places = await acceptMany(client, ...order)
          await client.query('commit')
          return places.map((place) => order[place])
        }),
      )
      expect(
        accepted
          .flat()
          .filter((id) => id?.includes('e'))
          .sort(),
      ).toEqual([...mine].sort())
    }
  })
})

test('no one waits for a transaction that hangs longer than five seconds, whatever the session says', async () => {
  await subscribed(1)
  await one.query('begin')
  await acceptMany(one, 'a')
  await renew(one, 'w1')
  await one.query('set local idle_in_transaction_session_timeout = 0')
  const calls: ((client: pg.Client) => Promise<unknown>)[] = [
    (client) => client.query("select outrider.accept($1, '/shop', 'a')", [group]),
    (client) => acceptMany(client, 'b', 'a'),
    (client) => acceptOrdered(client, 1, 'a'),
    (client) => renew(client, 'w2'),
  ]
  const outcomes = await Promise.all(
    calls.map(async (call, n) => {
      const client = await worker()
      await client.query(`set lock_timeout = ${n % 2 === 0 ? "'1h'" : '1'}`)
      const began = performance.now()
      const code = await codeOf(call(client))
      return [code, performance.now() - began > 4_900]
    }),
  )
  expect(outcomes).toEqual(calls.map(() => ['55P03', true]))
  await one.query('rollback')
})

test('a worker that is frozen before it commits its leases holds the others up for three seconds', async () => {
  await subscribed(1)
  const frozen = await worker()
  frozen.on('error', () => {})
  await frozen.query('begin')
  await renew(frozen, 'w1')
  expect(await codeOf(renew(one, 'w2'))).toBe('done')
  expect(await codeOf(frozen.query('commit'))).not.toBe('done')
})

describe('accept_ordered', () => {
  test('accepts under the epoch that is the last, duplicates left out', async () => {
    await subscribed(3)
    expect(await acceptOrdered(one, 3, 'a', 'b', 'a')).toEqual([0, 1])
    expect(await acceptOrdered(one, 3, 'b', 'c')).toEqual([1])
  })

  test('refuses any other epoch, also where no one subscribed, and leaves no row', async () => {
    expect(await codeOf(acceptOrdered(one, 0, 'a'))).toBe('OR001')
    await subscribed(3)
    for (const epoch of [2, 4]) expect(await codeOf(acceptOrdered(one, epoch, 'a'))).toBe('OR001')
    expect(await inbox()).toEqual([])
  })

  test('refuses a worker whose lease was taken while its transaction was open', async () => {
    await subscribed(0)
    await renew(one, 'w1')
    await one.query('begin')
    await one.query('select 1')
    await expire()
    expect((await renew(two, 'w2')).rows).toEqual([{ stream_key: 'things:0', epoch: '2', target: 1 }])
    expect(await codeOf(acceptOrdered(one, 1, 'a'))).toBe('OR001')
    await one.query('rollback')
    expect(await acceptOrdered(two, 2, 'a')).toEqual([0])
  })

  test('what was accepted before the lease was taken may commit: the new holder waits, and leaves it', async () => {
    await subscribed(0)
    await renew(one, 'w1')
    await one.query('begin')
    expect(await acceptOrdered(one, 1, 'a')).toEqual([0])
    await expire()
    // To take the lease nobody waits for a transaction of the old holder.
    await renew(two, 'w2')
    const waiting = acceptOrdered(two, 2, 'a', 'b')
    await waits(two)
    await one.query('commit')
    expect(await waiting).toEqual([1])
  })

  test('what was accepted before the lease was taken and rolls back is the new holder’s', async () => {
    await subscribed(0)
    await renew(one, 'w1')
    await one.query('begin')
    await acceptOrdered(one, 1, 'a')
    await expire()
    await renew(two, 'w2')
    const waiting = acceptOrdered(two, 2, 'a')
    await waits(two)
    await one.query('rollback')
    expect(await waiting).toEqual([0])
  })

  test('a frozen worker that waited behind the new holder is refused when it continues', async () => {
    await subscribed(0)
    await renew(one, 'w1')
    await expire()
    await renew(two, 'w2')
    await two.query('begin')
    await acceptOrdered(two, 2, 'a')
    const waiting = codeOf(acceptOrdered(one, 1, 'a', 'b'))
    await waits(one)
    await two.query('commit')
    expect(await waiting).toBe('OR001')
    expect(await inbox()).toEqual(['a'])
  })

  test.each(['repeatable read', 'serializable'])('refuses a transaction that is %s', async (level) => {
    await subscribed(1)
    await one.query(`begin isolation level ${level}`)
    expect(await codeOf(acceptOrdered(one, 1, 'a'))).toBe('0A000')
    await one.query('rollback')
    expect(await inbox()).toEqual([])
  })
})
