import { expect } from 'vitest'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { cloneTest, looksAgain } from './clone-env.js'
import { relayTest as test } from './relay-env.js'

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
