import { expect } from 'vitest'
import { positionPrefix } from '../../src/event/position.js'
import { postgresOptions } from '../../src/postgres/connect.js'
import { formatLsn, type Lsn } from '../../src/postgres/lsn.js'
import { beginLsn, commitEndLsn, MessageType } from '../../src/postgres/pgoutput.js'
import { Replication } from '../../src/postgres/replication.js'
import { needsProcess, startPostgres, startProxy, until } from '../../testkit/services/index.js'
import { test } from './fixture.js'
import { expectComplete } from './load.js'
import type { Scenario } from './scenario.js'

interface Commit {
  begin: Lsn
  end: Lsn
}

/** Reads the slot as the relay does, without a relay. */
class Reader {
  readonly commits: Commit[] = []
  readonly #replication: Replication
  readonly #running: Promise<void>

  private constructor(replication: Replication, s: Scenario) {
    this.#replication = replication
    let begin = 0n
    this.#running = replication.run(s.slot, 'outrider', {
      prepare: async () => {},
      message: (data) => {
        if (data[0] === MessageType.begin) begin = beginLsn(data)
        if (data[0] === MessageType.commit) this.commits.push({ begin, end: commitEndLsn(data) })
      },
      keepalive: () => {},
    })
    this.#running.catch(() => {})
  }

  static async start(s: Scenario): Promise<Reader> {
    const url = s.env.OUTRIDER_POSTGRES_URL as string
    return new Reader(new Replication(await postgresOptions({ url, connectTimeout: 5_000 }, 'test')), s)
  }

  /** Tells the slot, and waits until it stands there. */
  async confirm(s: Scenario, lsn: Lsn): Promise<void> {
    this.#replication.status(lsn)
    await until(async () => (await s.confirmed()) === formatLsn(lsn), { message: `the slot at ${formatLsn(lsn)}` })
  }

  /** As a crash does: nothing more is said to the server. */
  async crash(s: Scenario): Promise<void> {
    this.#replication.destroy()
    await this.#running.catch(() => {})
    await until(async () => !(await isActive(s)), { message: 'the walsender to end' })
  }
}

async function isActive(s: Scenario): Promise<boolean> {
  const { rows } = await s.postgres.query('select active from pg_replication_slots where slot_name = $1', [s.slot])
  return rows[0].active
}

/** Two transactions committed at once, `second` with what it inserts besides. */
async function commitTogether(s: Scenario, first: string, second: string, rows = 1): Promise<void> {
  const clients = await Promise.all([s.database.connect(), s.database.connect()])
  const [one, other] = clients
  const insert = `insert into outrider.outbox (stream, type, data)
    select $1, 'test.happened', to_json(repeat('x', 1000)) from generate_series(1, $2)`
  await one.query('begin')
  await other.query('begin')
  await one.query(insert, [first, 1])
  await other.query(insert, [second, rows])
  await Promise.all([one.query('commit'), other.query('commit')])
  await Promise.all(clients.map((client) => client.end()))
}

/** Commits pairs until one is adjacent: the end of the first commit record is where the second one begins. */
async function adjacentCommits(s: Scenario, reader: Reader): Promise<[Commit, Commit]> {
  return until(
    async () => {
      const seen = reader.commits.length
      await commitTogether(s, 'first', 'second')
      await until(() => reader.commits.length === seen + 2, { message: 'both commits to be received' })
      const [a, b] = reader.commits.slice(-2) as [Commit, Commit]
      return a.end === b.begin ? ([a, b] as [Commit, Commit]) : undefined
    },
    { timeout: 30_000, message: 'two commits whose records touch' },
  )
}

test('of two adjacent commits the second comes again after a crash, when exactly the end of the first was confirmed', async ({
  scenario,
}) => {
  const s = await scenario()
  const reader = await Reader.start(s)
  const [first, second] = await adjacentCommits(s, reader)
  await reader.confirm(s, first.end)
  await reader.crash(s)

  const again = await Reader.start(s)
  await until(() => again.commits.length > 0, { message: 'a commit after the crash' })
  expect(again.commits).toEqual([second])
  await again.crash(s)
})

test('one byte more than the end of the first would lose the second', async ({ scenario }) => {
  const s = await scenario()
  const reader = await Reader.start(s)
  const [first] = await adjacentCommits(s, reader)
  await reader.confirm(s, first.end + 1n)
  await reader.crash(s)

  await s.insert('third')
  const again = await Reader.start(s)
  await until(() => again.commits.length > 0, { message: 'a commit after the crash' })
  expect(again.commits).toHaveLength(1)
  expect(again.commits[0]!.begin).toBeGreaterThan(first.end + 1n)
  await again.crash(s)
})

test('a relay that is killed when the first of two adjacent commits is confirmed and the second half published loses none of it', async ({
  scenario,
  configFile,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  // Of its own: nobody else's WAL may come between the two.
  const server = await startPostgres({ settings: { autovacuum: 'off' } })
  onTestFinished(() => server.remove())
  // Before a relay runs, for it would write in between.
  let adjacent: { s: Scenario; first: string; second: string; begin: Lsn } | undefined
  for (let attempt = 1; !adjacent && attempt <= 10; attempt++) {
    // A database each: what an attempt left behind would travel first, and slowly.
    const s = await scenario({ database: await server.createDatabase() })
    const [first, second] = [`first-${attempt}`, `second-${attempt}`]
    await commitTogether(s, first, second, 5_000)
    const { rows } = await s.postgres.query(
      `select data from pg_logical_slot_peek_binary_changes($1, null, null, 'proto_version', '1', 'publication_names', 'outrider')`,
      [s.slot],
    )
    const messages: Buffer[] = rows.map(({ data }) => data)
    const begins = messages.filter((data) => data[0] === MessageType.begin).slice(-2)
    const ends = messages.filter((data) => data[0] === MessageType.commit).slice(-2)
    const smallFirst = messages.lastIndexOf(begins[1]!) - messages.lastIndexOf(begins[0]!) < 10
    const begin = beginLsn(begins[1]!)
    if (smallFirst && commitEndLsn(ends[0]!) === begin) adjacent = { s, first, second, begin }
  }
  if (!adjacent) throw new Error('Expected two commits whose records touch in 10 attempts, found none.')

  const { s } = adjacent
  const proxy = await startProxy(Number(new URL(s.env.OUTRIDER_REDIS_URL as string).port))
  onTestFinished(() => proxy.close())
  // So slow that the second is still on its way when the first is confirmed; in batches that arrive before their deadline.
  proxy.limit(300_000, 'up')
  const relay = await s.relay({
    OUTRIDER_REDIS_URL: proxy.url(s.env.OUTRIDER_REDIS_URL as string),
    OUTRIDER_CONFIG: await configFile('limits: { batchBytes: 32KiB }'),
  })
  await until(async () => (await s.confirmed()) === formatLsn(adjacent.begin), {
    timeout: 30_000,
    message: () => `the slot at ${formatLsn(adjacent.begin)}\n${relay.tail()}`,
  })
  await relay.kill()
  const published = await s.redis.xlen(adjacent.second)
  expect(published).toBeGreaterThan(0)
  expect(published).toBeLessThan(5_000)
  expect(await s.confirmed()).toBe(formatLsn(adjacent.begin))

  const next = await s.relay()
  await expectComplete(s, adjacent.second)
  await expectComplete(s, adjacent.first)
  const [[, fields]] = (await s.redis.xrange(adjacent.second, '-', '+', 'COUNT', 1)) as [[string, string[]]]
  expect(fields[fields.indexOf('sequence') + 1]).toContain(positionPrefix(1, adjacent.begin))
  expect(await next.metric('outrider_events_skipped_total')).toBeGreaterThan(0)
})
