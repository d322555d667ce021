import { expect } from 'vitest'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { through } from './proxied-relay.js'
import { relayTest as test } from './relay-env.js'
import { subtransactions } from './subtransactions.js'

test.concurrent('a relay whose walsender decodes in silence for longer than the limit waits in one session, says since when, and publishes the event behind', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip }, ['postgres'])
  // Its own: a process that is stopped may hold what other sessions of the server wait for.
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const env = await createEnv({ database: await server.createDatabase() })
  // The relay takes 10 s of silence from it.
  await env.postgres.query(
    `alter role relay_${env.database.name} set wal_sender_timeout = '5s';
     alter role relay_${env.database.name} set logical_decoding_work_mem = '64kB'`,
  )
  await subtransactions(env.postgres, 20_000)
  const id = await env.insert('orders')
  const relay = await env.relay()
  const walsender = await env.walsender()
  const writes = "select from pg_stat_activity where pid = $1 and wait_event = 'ReorderBufferWrite'"
  await until(async () => (await env.postgres.query(writes, [walsender])).rowCount === 1)
  // How long decoding takes depends on the machine: it is made to take longer than any of them would.
  process.kill(walsender, 'SIGSTOP')
  try {
    await until(async () => ((await relay.metric('outrider_decoding_seconds')) ?? 0) > 25, {
      message: () => `25 s of silence\n${relay.tail(10)}`,
    })
  } finally {
    process.kill(walsender, 'SIGCONT')
  }
  const decoding = /^Postgres has been decoding without sending anything since \d{4}-.*, \d+ MiB spilled to disk$/
  await relay.logged(({ msg }) => decoding.test(msg))
  await until(async () => (await env.ids('orders')).length > 0, { message: () => `the event\n${relay.tail(10)}` })
  expect(await env.ids('orders')).toEqual([id])
  expect(await env.walsender()).toBe(walsender)
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
  await until(async () => (await relay.metric('outrider_decoding_seconds')) === 0)
  // Postgres shows what was spilled a little later.
  await until(async () => ((await relay.metric('outrider_slot_spilled_bytes')) ?? 0) > 0)
})

test.concurrent('Postgres half-open, what comes down is swallowed, and a wal_sender_timeout of 10 min: left within 60 s, and everything arrives once', async ({
  createEnv,
  onTestFinished,
}) => {
  const { env, proxy, start } = await through('postgres', { createEnv, onTestFinished })
  await env.postgres.query(`alter role relay_${env.database.name} set wal_sender_timeout = '10min'`)
  const relay = await start()
  await relay.streaming()
  const ids = [await env.insert('orders')]
  await until(async () => (await env.ids('orders')).length === 1)
  const since = performance.now()
  proxy.swallow('down')
  ids.push(await env.insert('orders'))
  await until(() => relay.logs.some(({ msg }) => msg.startsWith('reconnecting')), {
    timeout: 60_000,
    message: () => `the relay to leave\n${relay.tail(10)}`,
  })
  // Not before the silence limit either, which is 40 s.
  expect(performance.now() - since).toBeGreaterThan(30_000)
  proxy.resume()
  await until(async () => (await env.ids('orders')).length === 2)
  expect(await env.ids('orders')).toEqual(ids)
})
