import { expect, type TestContext } from 'vitest'
import { postgresOptions } from '../../src/postgres/client/connect.js'
import { Replication } from '../../src/postgres/replication/stream.js'
import { observeWalsender, WALSENDER_LIMITS, WalsenderMonitor } from '../../src/relay/source/walsender-monitor.js'
import { needsProcess, startPostgres, startProxy, until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { subtransactions } from './subtransactions.js'

/** A stream of the scenario's slot, as the relay's role, watched with short limits. */
async function watched(env: RelayEnv, { onTestFinished }: Pick<TestContext, 'onTestFinished'>, url?: string) {
  const state = await env.database.connect({ user: `relay_${env.database.name}` })
  const replication = new Replication(
    await postgresOptions(
      { url: url ?? (env.variables.OUTRIDER_POSTGRES_URL as string), connectTimeout: 5_000 },
      'outrider test',
    ),
  )
  let pid = 0
  /** What the relay's role is told of its walsender. */
  const observe = () => observeWalsender(state, { pid, slot: env.slot })
  const seen = { failed: '', longest: 0, reports: 0, messages: 0, observe }
  const streaming = replication
    .run(env.slot, 'outrider', {
      prepare: async (query) => {
        pid = Number((await query('select pg_backend_pid() as pid'))[0]?.pid)
        return 0n
      },
      message: () => {
        seen.messages += 1
      },
      keepalive: (_walEnd, replyRequested) => {
        if (replyRequested) replication.status(0n)
      },
    })
    .catch(() => {})
  const monitor = new WalsenderMonitor({
    limits: { ...WALSENDER_LIMITS, silence: 100, report: 50 },
    clock: () => performance.now(),
    stream: replication,
    ask: observe,
    requestReply: () => replication.status(0n, true),
    observe: {
      decoding: (silence) => {
        seen.longest = Math.max(seen.longest, silence)
      },
      stillDecoding: () => {
        seen.reports += 1
      },
      held: () => {},
    },
    failed: (error) => {
      seen.failed ||= String(error)
    },
  })
  await env.walsender()
  const timer = setInterval(() => {
    replication.status(0n, true)
    monitor.poll()
  }, 50)
  onTestFinished(async () => {
    clearInterval(timer)
    replication.destroy()
    await streaming
    await state.end()
  })
  return { seen }
}

test.concurrent('a walsender that decodes subtransactions of another table is silent and kept, and what it spills is told', async ({
  createEnv,
  onTestFinished,
}) => {
  const env = await createEnv()
  await env.postgres.query(`alter role relay_${env.database.name} set logical_decoding_work_mem = '64kB'`)
  await subtransactions(env.postgres, 8_000)
  await env.insert('orders')
  const { seen } = await watched(env, { onTestFinished })
  await until(() => seen.messages > 0, { timeout: 90_000, message: () => `the row: ${JSON.stringify(seen)}` })
  expect(seen.failed).toBe('')
  expect(seen.longest).toBeGreaterThan(100)
  expect(seen.reports).toBeGreaterThan(0)
  // Postgres counts what is spilled at the end of a transaction, and shows it a little later.
  await until(async () => ((await seen.observe()).activity?.spilledBytes ?? 0) > 0)
})

test.concurrent('a stream that is half-open is given up, however long wal_sender_timeout is', async ({
  createEnv,
  onTestFinished,
}) => {
  const env = await createEnv()
  await env.postgres.query(`alter role relay_${env.database.name} set wal_sender_timeout = '10min'`)
  const direct = env.variables.OUTRIDER_POSTGRES_URL as string
  const proxy = await startProxy(Number(new URL(direct).port))
  onTestFinished(() => proxy.close())
  const { seen } = await watched(env, { onTestFinished }, proxy.url(direct))
  await env.insert('orders')
  await until(() => seen.messages > 0)
  expect(seen.failed).toBe('')
  proxy.swallow('down')
  await until(() => seen.failed !== '')
  expect(seen.failed).toMatch(/idle and was asked to answer/)
})

test.concurrent('a standby slot that is missing holds back the stream: the relay says so, and continues after a reload', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const [{ version }] = (await server.query("select current_setting('server_version_num')::int as version")) as [
    { version: number },
  ]
  if (version < 170_000) skip('synchronized_standby_slots exists in PostgreSQL 17 and later')
  const env = await createEnv({ database: await server.createDatabase() })
  const relay = await env.relay()
  await relay.streaming()
  const slot = async (name: string) => env.postgres.query('select pg_create_physical_replication_slot($1)', [name])
  await slot('standby_1')
  // Nobody reads it: it confirms nothing.
  await server.set({ synchronized_standby_slots: 'standby_1' })
  const id = await env.insert('orders')
  await relay.is({ role: 'active', state: 'blocked', reason: 'standby_not_confirming' })
  expect((await relay.status())?.message).toMatch(/synchronized_standby_slots .*standby_1 is inactive/)
  expect(await env.ids('orders')).toEqual([])
  expect(await relay.metric('outrider_blocked_seconds_total{reason="standby_not_confirming"}')).toBeGreaterThan(0)
  await server.set({ synchronized_standby_slots: null })
  await until(async () => (await env.ids('orders')).includes(id))
  await relay.streaming()
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
})
