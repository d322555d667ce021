import { expect } from 'vitest'
import { positionPrefix } from '../../src/event/position.js'
import { postgresOptions } from '../../src/postgres/client/connect.js'
import { formatLsn, type Lsn, parseLsn } from '../../src/postgres/client/lsn.js'
import { beginLsn, commitEndLsn, MessageType } from '../../src/postgres/replication/pgoutput.js'
import { Replication } from '../../src/postgres/replication/stream.js'
import { needsProcess, startPostgres, startProxy, until } from '../../testkit/services/index.js'
import { expectComplete } from './load.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

interface Commit {
  begin: Lsn
  end: Lsn
}

/** Reads the slot as the relay does, without a relay. */
class Reader {
  readonly commits: Commit[] = []
  readonly #replication: Replication
  readonly #running: Promise<void>

  private constructor(replication: Replication, env: RelayEnv) {
    this.#replication = replication
    let begin = 0n
    this.#running = replication.run(env.slot, 'outrider', {
      prepare: async () => 0n,
      message: (bytes, start, end) => {
        const data = bytes.subarray(start, end)
        if (data[0] === MessageType.begin) begin = beginLsn(data)
        if (data[0] === MessageType.commit) this.commits.push({ begin, end: commitEndLsn(data) })
      },
      keepalive: () => {},
    })
    this.#running.catch(() => {})
  }

  static async start(env: RelayEnv): Promise<Reader> {
    const url = env.variables.OUTRIDER_POSTGRES_URL as string
    return new Reader(new Replication(await postgresOptions({ url, connectTimeout: 5_000 }, 'test')), env)
  }

  /** Tells the slot, and waits until it stands there. */
  async confirm(env: RelayEnv, lsn: Lsn): Promise<void> {
    this.#replication.status(lsn)
    await until(async () => parseLsn(await env.confirmed()) === lsn, { message: `the slot at ${formatLsn(lsn)}` })
  }

  /** As a crash does: nothing more is said to the server. */
  async crash(env: RelayEnv): Promise<void> {
    this.#replication.destroy()
    await this.#running.catch(() => {})
    await until(async () => !(await isActive(env)), { message: 'the walsender to end' })
  }
}

async function isActive(env: RelayEnv): Promise<boolean> {
  const { rows } = await env.postgres.query('select active from pg_replication_slots where slot_name = $1', [env.slot])
  return rows[0].active
}

/** Two transactions committed at once, `second` with what it inserts besides. */
async function commitTogether(env: RelayEnv, first: string, second: string, rows = 1): Promise<void> {
  const clients = await Promise.all([env.database.connect(), env.database.connect()])
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
async function adjacentCommits(env: RelayEnv, reader: Reader): Promise<[Commit, Commit]> {
  return until(
    async () => {
      const seen = reader.commits.length
      await commitTogether(env, 'first', 'second')
      await until(() => reader.commits.length === seen + 2, { message: 'both commits to be received' })
      const [a, b] = reader.commits.slice(-2) as [Commit, Commit]
      return a.end === b.begin ? ([a, b] as [Commit, Commit]) : undefined
    },
    { message: 'two commits whose records touch' },
  )
}

test('of two adjacent commits the second is sent again after a crash, when exactly the end of the first was confirmed', async ({
  env,
}) => {
  const reader = await Reader.start(env)
  const [first, second] = await adjacentCommits(env, reader)
  await reader.confirm(env, first.end)
  await reader.crash(env)

  const again = await Reader.start(env)
  await until(() => again.commits.length > 0, { message: 'a commit after the crash' })
  expect(again.commits).toEqual([second])
  await again.crash(env)
})

test('one byte more than the end of the first would lose the second', async ({ env }) => {
  const reader = await Reader.start(env)
  const [first] = await adjacentCommits(env, reader)
  await reader.confirm(env, first.end + 1n)
  await reader.crash(env)

  await env.insert('third')
  const again = await Reader.start(env)
  await until(() => again.commits.length > 0, { message: 'a commit after the crash' })
  expect(again.commits).toHaveLength(1)
  expect(again.commits[0]!.begin).toBeGreaterThan(first.end + 1n)
  await again.crash(env)
})

test('a relay that is killed when the first of two adjacent commits is confirmed and the second half published loses none of it', async ({
  createEnv,
  configFile,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  // Of its own: nobody else's WAL may come between the two.
  const server = await startPostgres({ settings: { autovacuum: 'off' } })
  onTestFinished(() => server.remove())
  // Before a relay runs, for it would write in between.
  let adjacent: { env: RelayEnv; first: string; second: string; begin: Lsn } | undefined
  for (let attempt = 1; !adjacent && attempt <= 10; attempt++) {
    // A database each: what an attempt left behind would travel first, and slowly.
    const env = await createEnv({ database: await server.createDatabase() })
    const [first, second] = [`first-${attempt}`, `second-${attempt}`]
    await commitTogether(env, first, second, 5_000)
    const { rows } = await env.postgres.query(
      `select data from pg_logical_slot_peek_binary_changes($1, null, null, 'proto_version', '1', 'publication_names', 'outrider')`,
      [env.slot],
    )
    const messages: Buffer[] = rows.map(({ data }) => data)
    const begins = messages.filter((data) => data[0] === MessageType.begin).slice(-2)
    const ends = messages.filter((data) => data[0] === MessageType.commit).slice(-2)
    const smallFirst = messages.lastIndexOf(begins[1]!) - messages.lastIndexOf(begins[0]!) < 10
    const begin = beginLsn(begins[1]!)
    if (smallFirst && commitEndLsn(ends[0]!) === begin) adjacent = { env, first, second, begin }
  }
  if (!adjacent) throw new Error('Expected two commits whose records touch in 10 attempts, found none.')

  const { env } = adjacent
  const proxy = await startProxy(Number(new URL(env.variables.OUTRIDER_REDIS_URL as string).port))
  onTestFinished(() => proxy.close())
  // So slow that the second is still on its way when the first is confirmed; in batches that arrive before their deadline.
  proxy.limit(300_000, 'up')
  const relay = await env.relay({
    OUTRIDER_REDIS_URL: proxy.url(env.variables.OUTRIDER_REDIS_URL as string),
    OUTRIDER_CONFIG: await configFile('limits: { batchBytes: 32KiB }'),
  })
  await until(async () => parseLsn(await env.confirmed()) === adjacent.begin, {
    message: () => `the slot at ${formatLsn(adjacent.begin)}\n${relay.tail()}`,
  })
  await relay.kill()
  const published = await env.redis.xlen(adjacent.second)
  expect(published).toBeGreaterThan(0)
  expect(published).toBeLessThan(5_000)
  expect(parseLsn(await env.confirmed())).toBe(adjacent.begin)

  const next = await env.relay()
  await expectComplete(env, adjacent.second)
  await expectComplete(env, adjacent.first)
  const [[, fields]] = (await env.redis.xrange(adjacent.second, '-', '+', 'COUNT', 1)) as [[string, string[]]]
  expect(fields[fields.indexOf('sequence') + 1]).toContain(positionPrefix(1, adjacent.begin))
  expect(await next.metric('outrider_events_skipped_total')).toBeGreaterThan(0)
})

test('what cannot be saved is not confirmed, and no gap is left once it can be', async ({ env }) => {
  const relay = await env.relay()
  await relay.streaming()
  await env.postgres.query('alter table outrider.lineage enable row level security')
  await env.insert('orders')
  await relay.is({ role: 'starting', reason: 'setup_privilege' })
  const { rows } = await env.postgres.query(
    `select confirmed_flush_lsn <= confirmed_lsn as behind from pg_replication_slots as s
     join outrider.lineage as l on l.slot = s.slot_name where l.slot = $1`,
    [env.slot],
  )
  expect(rows).toEqual([{ behind: true }])
  await env.postgres.query('alter table outrider.lineage disable row level security')
  await relay.streaming()
  await until(async () => (await env.ids('orders')).length === 1)
  expect((await env.postgres.query('select from outrider.incident')).rowCount).toBe(0)
})
