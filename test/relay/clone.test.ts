import { expect } from 'vitest'
import { headKey } from '../../src/event/names.js'
import { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, type Postgres, startPostgres, until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

interface CloneEnv extends RelayEnv {
  original: Postgres
  /** A copy of the server as it is now, running, with a relay of its own on the same Redis. */
  clone(): Promise<{ server: Postgres; relay(): Promise<RelayProcess> }>
  openIncidents(server: Postgres): Promise<{ kind: string; reason: string; stream: string | null }[]>
  publish(server: Postgres, stream: string): Promise<string>
  /** The head of `orders` in Redis, but for the barrier's watermark, which comes when it comes. */
  head(): Promise<Record<string, string>>
}

const cloneTest = test.extend<{ env: CloneEnv }>({
  env: async ({ createEnv, skip, onTestFinished }, use) => {
    needsProcess({ skip })
    const original = await startPostgres()
    onTestFinished(() => original.remove())
    const database = await original.createDatabase()
    const env = await createEnv({ database })
    const { rows } = await env.postgres.query('select lineage::text from outrider.lineage')
    await use({
      ...env,
      original,
      async clone() {
        const copy = await startPostgres({ dataFrom: await original.cloneData() })
        onTestFinished(() => copy.remove())
        const url = copy.url(database.name, { user: `relay_${database.name}` })
        return {
          server: copy,
          async relay() {
            const relay = await RelayProcess.start({ ...env.variables, OUTRIDER_POSTGRES_URL: url })
            onTestFinished(() => relay.kill())
            return relay
          },
        }
      },
      openIncidents: (which) =>
        which.query(
          'select kind, reason, stream from outrider.incident where closed_at is null order by id',
          [],
          database.name,
        ),
      async publish(which, stream) {
        const [row] = await which.query<{ id: string }>(
          "select outrider.publish($1, 'test.happened', '{}') as id",
          [stream],
          database.name,
        )
        return row!.id
      },
      async head() {
        const { durable: _, ...head } = await env.redis.hgetall(headKey('orders', rows[0].lineage))
        return head
      },
    })
  },
})

/** The relay has looked again so many times more. */
async function looksAgain(relay: RelayProcess, times = 1): Promise<void> {
  const before = (await relay.metric('outrider_errors_total')) ?? 0
  await until(async () => ((await relay.metric('outrider_errors_total')) ?? 0) >= before + times, { timeout: 20_000 })
}

for (const saved of [true, false]) {
  cloneTest(
    `a clone that is older than the head in Redis${saved ? '' : ', of a stream that it has not saved yet,'} halts as foreign, writes nothing, and does not disturb the original`,
    async ({ env }) => {
      const { original, clone, openIncidents, publish, head } = env
      const relay = await env.streamingRelay()
      await publish(original, 'orders')
      await until(async () => (await env.ids('orders')).length === 1)
      if (saved) {
        const heads = 'select from outrider.head'
        await until(async () => (await env.postgres.query(heads)).rowCount === 1, { message: 'the head to be saved' })
      }
      const copy = await clone()
      // Further than what a copy writes to its WAL just by starting.
      await env.database.query('create table filler as select gen_random_uuid() from generate_series(1, 20000)')
      await publish(original, 'orders')
      await until(async () => (await env.ids('orders')).length === 2)
      const before = { ids: await env.ids('orders'), head: await head() }

      await publish(copy.server, 'orders')
      const other = await copy.relay()
      await other.is({ role: 'halted', reason: 'wal_beyond' })
      expect(await other.status()).toMatchObject({ code: 503, message: expect.stringContaining('outrider adopt') })
      expect(await openIncidents(copy.server)).toEqual([{ kind: 'foreign', reason: 'wal_beyond', stream: 'orders' }])
      await looksAgain(other)
      expect({ ids: await env.ids('orders'), head: await head() }).toEqual(before)

      const id = await publish(original, 'orders')
      await until(async () => (await env.ids('orders')).length === 3)
      expect(await env.ids('orders')).toEqual([...before.ids, id])
      expect(await relay.status()).toMatchObject({ code: 200, role: 'active', state: 'streaming' })
      expect(await openIncidents(original)).toEqual([])
    },
  )
}

cloneTest(
  'a clone that publishes while the original is idle: the original halts loudly, with nothing of its own skipped in silence',
  async ({ env }) => {
    const { original, clone, openIncidents, publish } = env
    const relay = await env.streamingRelay()
    const first = await publish(original, 'orders')
    await until(async () => (await env.ids('orders')).length === 1)
    const copy = await clone()
    const other = await copy.relay()
    await other.streaming()
    const cloned = await publish(copy.server, 'orders')
    await until(async () => (await env.ids('orders')).length === 2)

    // No event is needed to find it.
    await relay.is({ role: 'halted', reason: 'session_unknown' })
    expect(await relay.status()).toMatchObject({ code: 503, message: expect.stringContaining('copy') })
    expect(await openIncidents(original)).toEqual([{ kind: 'foreign', reason: 'session_unknown', stream: 'orders' }])
    const own = await publish(original, 'orders')
    await looksAgain(relay)
    expect(await env.ids('orders')).toEqual([first, cloned])
    // It stays in the slot, for when somebody has decided.
    const rows = await env.database.query<{ data: Buffer }>(
      `select data from
     pg_logical_slot_peek_binary_changes($1, null, null, 'proto_version', '1', 'publication_names', 'outrider')`,
      [env.slot],
    )
    expect(rows.filter(({ data }) => data.includes(own))).toHaveLength(1)
    expect(await openIncidents(copy.server)).toEqual([])
  },
)

cloneTest('a clone publishes and the original starts only later: it halts as foreign, too', async ({ env }) => {
  const { original, clone, openIncidents, publish } = env
  const relay = await env.streamingRelay()
  const first = await publish(original, 'orders')
  await until(async () => (await env.ids('orders')).length === 1)
  await relay.stop()
  const copy = await clone()
  const other = await copy.relay()
  await other.streaming()
  const cloned = await publish(copy.server, 'orders')
  await until(async () => (await env.ids('orders')).length === 2)

  await publish(original, 'orders')
  const later = await env.relay()
  await later.is({ role: 'halted', reason: 'session_unknown' })
  expect(await openIncidents(original)).toEqual([{ kind: 'foreign', reason: 'session_unknown', stream: 'orders' }])
  expect(await env.ids('orders')).toEqual([first, cloned])
  expect(await other.status()).toMatchObject({ role: 'active', state: 'streaming' })
})

test('the tables of one cluster put into another are taken for a foreign database, before anything is published', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const original = await createEnv()
  const relay = await original.streamingRelay()
  const id = await original.insert('orders')
  await until(async () => (await original.ids('orders')).length === 1)
  await relay.stop()

  const server = await startPostgres({ ownIdentifier: true })
  onTestFinished(() => server.remove())
  const restored = await createEnv({ database: await server.createDatabase(original.database.name) })
  for (const table of ['lineage', 'session', 'head']) {
    const { rows } = await original.postgres.query(`select to_json(t) as row from outrider.${table} t`)
    await restored.postgres.query(`delete from outrider.${table}`)
    for (const { row } of rows) {
      await restored.postgres.query(
        `insert into outrider.${table} overriding system value
         select * from json_populate_record(null::outrider.${table}, $1)`,
        [row],
      )
    }
  }
  const other = await restored.relay({ OUTRIDER_REDIS_URL: original.variables.OUTRIDER_REDIS_URL as string })
  await other.is({ role: 'halted', reason: 'system_id' })
  expect(await other.status()).toMatchObject({ code: 503, message: expect.stringContaining('outrider adopt') })
  await restored.insert('orders')
  await looksAgain(other)
  expect(await original.ids('orders')).toEqual([id])
  const { rows } = await restored.postgres.query('select kind, reason from outrider.incident')
  expect(rows).toEqual([{ kind: 'foreign', reason: 'system_id' }])
})
