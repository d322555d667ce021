import pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { databaseOf } from '../../src/consumer/inbox/database-of.js'
import { acceptance, isDone, prune, subscribe, subscriptions } from '../../src/consumer/inbox/inbox.js'
import { createInboxEnv, type InboxEnv } from './inbox-env.js'

const DAY = 86_400_000

let env: InboxEnv
let pool: pg.Pool
let group: string
let count = 0

beforeAll(async () => {
  env = await createInboxEnv()
  pool = new pg.Pool({ connectionString: env.workerUrl })
})

afterAll(async () => {
  await pool.end()
  await env.close()
})

beforeEach(() => {
  group = `group-${++count}`
})

/** So many events that a group did so many days ago. */
const done = (of: string, n: number, days: number) =>
  env.owner.query(
    `insert into outrider.inbox (consumer_group, source, id, processed_at)
     select $1, '/shop', $3::int || ' days ago, ' || n, clock_timestamp() - make_interval(days => $3, secs => n)
     from generate_series(1, $2::int) as n`,
    [of, n, days],
  )

const left = async (of = group): Promise<number> =>
  (await env.owner.query('select count(*)::int as n from outrider.inbox where consumer_group = $1', [of])).rows[0].n

async function asWorker<Result>(run: (client: pg.PoolClient) => Promise<Result>): Promise<Result> {
  const client = await pool.connect()
  try {
    return await run(client)
  } finally {
    client.release(true)
  }
}

describe('prune', () => {
  test('deletes what the group did before the window, and nothing else', async () => {
    await done(group, 3, 9)
    await done(group, 2, 7)
    await done(`${group}-other`, 4, 9)
    expect(await prune(databaseOf(pool), group, 8 * DAY)).toBe(3)
    expect([await left(), await left(`${group}-other`)]).toEqual([2, 4])
    expect(await prune(databaseOf(pool), group, 8 * DAY)).toBe(0)
  })

  test('goes in small batches, the oldest first', async () => {
    await done(group, 1_500, 9)
    await done(group, 700, 10)
    expect(await prune(databaseOf(pool), group, DAY)).toBe(1_000)
    const { rows } = await env.owner.query(
      `select split_part(id, ' ', 1) as days, count(*)::int as n from outrider.inbox where consumer_group = $1 group by 1`,
      [group],
    )
    expect(rows).toEqual([{ days: '9', n: 1_200 }])
    expect(await prune(databaseOf(pool), group, DAY)).toBe(1_000)
    expect(await prune(databaseOf(pool), group, DAY)).toBe(200)
    expect(await prune(databaseOf(pool), group, DAY)).toBe(0)
  })

  test('does not wait for what another transaction deletes, and takes the rest', async () => {
    await done(group, 5, 9)
    const other = await env.database.connect()
    onTestFinished(() => other.end())
    await other.query('begin')
    const some = "delete from outrider.inbox where consumer_group = $1 and id in ('9 days ago, 2', '9 days ago, 4')"
    expect((await other.query(some, [group])).rowCount).toBe(2)
    expect(await prune(databaseOf(pool), group, DAY)).toBe(3)
    await other.query('rollback')
    expect(await prune(databaseOf(pool), group, DAY)).toBe(2)
  })

  test('of several workers at once deletes each row once', async () => {
    await done(group, 3_500, 9)
    let sum = 0
    for (let n = 1; n > 0; ) {
      const batches = await Promise.all([0, 1, 2].map(() => prune(databaseOf(pool), group, DAY)))
      n = batches.reduce((all, batch) => all + batch)
      sum += n
    }
    expect([sum, await left()]).toEqual([3_500, 0])
  })

  test('never looks through a large inbox: it finds what is old by the index, and deletes it by its place', async () => {
    await done(group, 20_000, 1)
    await done(`${group}-other`, 20_000, 9)
    await done(group, 1_500, 9)
    await env.owner.query('analyze outrider.inbox')
    const explained: string[] = []
    const explaining = databaseOf({
      transaction: async (run) =>
        asWorker(async (client) => {
          await client.query('begin')
          const result = await run(client)
          await client.query('commit')
          return result
        }),
      query: async (tx: pg.PoolClient, text: string, values: string[]) => {
        if (text !== 'select 1') {
          for (const mode of ['force_custom_plan', 'force_generic_plan']) {
            await tx.query(`set local plan_cache_mode = ${mode}`)
            const { rows } = await tx.query(`explain ${text}`, values)
            explained.push(rows.map((row) => row['QUERY PLAN']).join('\n'))
          }
        }
        return tx.query(text, values)
      },
    })
    expect(await prune(explaining, group, 8 * DAY)).toBe(1_000)
    expect(explained).toHaveLength(2)
    for (const plan of explained) {
      expect(plan).toContain('using inbox_prune on inbox')
      // What other groups keep for longer is not looked through either.
      expect(plan).toMatch(/Index Cond: \(\(consumer_group = .*\) AND \(processed_at < /)
      expect(plan).toContain('Tid Scan on inbox')
      expect(plan).not.toMatch(/Seq Scan|Bitmap|Sort/)
    }
  })
})

test('isDone tells whether this group has done this event', async () => {
  const event = { source: '/shop', id: 'a' }
  await asWorker((client) => client.query("select outrider.accept($1, '/shop', 'a')", [group]))
  expect(await isDone(databaseOf(pool), group, event)).toBe(true)
  expect(await isDone(databaseOf(pool), group, { ...event, id: 'b' })).toBe(false)
  expect(await isDone(databaseOf(pool), group, { ...event, source: '/mail' })).toBe(false)
  expect(await isDone(databaseOf(pool), `${group}-other`, event)).toBe(false)
})

test('isDone neither waits for work that is not committed, nor counts it', async () => {
  await asWorker(async (client) => {
    await client.query('begin')
    await client.query("select outrider.accept($1, '/shop', 'a')", [group])
    expect(await isDone(databaseOf(pool), group, { source: '/shop', id: 'a' })).toBe(false)
    await client.query('commit')
  })
  expect(await isDone(databaseOf(pool), group, { source: '/shop', id: 'a' })).toBe(true)
})

test('a subscription is known from when it is made, also by two at once, and keeps what it has', async () => {
  const some = ['things:1', 'things:0']
  expect(await subscriptions(databaseOf(pool), group, some)).toEqual(new Set())
  await subscribe(databaseOf(pool), group, some)
  await env.owner.query('update outrider.subscription set epoch = 7 where consumer_group = $1', [group])
  const keys = Array.from({ length: 20 }, (_, n) => `things:${n}`)
  expect(await subscriptions(databaseOf(pool), group, keys)).toEqual(new Set(some))
  await Promise.all([keys, keys.toReversed()].map((each) => subscribe(databaseOf(pool), group, each)))
  expect(await subscriptions(databaseOf(pool), group, [...keys, 'others'])).toEqual(new Set(keys))
  expect(await subscriptions(databaseOf(pool), `${group}-other`, keys)).toEqual(new Set())
  const { rows } = await env.owner.query(
    'select stream_key, epoch from outrider.subscription where consumer_group = $1 and epoch > 0 order by 1',
    [group],
  )
  expect(rows).toEqual([
    { stream_key: 'things:0', epoch: '7' },
    { stream_key: 'things:1', epoch: '7' },
  ])
})

test('acceptance takes any text as source and id, and tells the places to do', async () => {
  const ids = ['a b', 'é', '"', "'", '\\', '\u2028', '{}']
  const keys = ids.map((id) => ({ source: `/${id}`, id }))
  const accept = async (some: typeof keys, lease?: { key: string; epoch: string }) => {
    const { first, read } = acceptance(group, some, lease)
    const places = read(await databaseOf(pool).query(first))
    return places && [...places]
  }
  expect(await accept(keys.slice(0, 1))).toEqual([0])
  expect(await accept(keys)).toEqual([1, 2, 3, 4, 5, 6])
  for (const key of keys) expect(await isDone(databaseOf(pool), group, key)).toBe(true)
  // Nothing to do: no transaction.
  expect(await accept(keys)).toBeUndefined()
  expect(await accept(keys.slice(0, 1))).toBeUndefined()
  await subscribe(databaseOf(pool), group, ['things:0'])
  const lease = { key: 'things:0', epoch: '0' }
  expect(await accept([...keys, { source: '/new', id: 'b' }], lease)).toEqual([7])
  expect(await accept(keys, lease)).toBeUndefined()
})
