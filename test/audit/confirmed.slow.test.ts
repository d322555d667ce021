import { expect, test } from 'vitest'
import { needsProcess, startPostgres } from '../../testkit/services/index.js'
import { createAuditEnv } from './audit-env.js'

test('an audit waits until an idle relay has confirmed the rows that lack their entry', async ({
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  // Of its own: whatever is written there, relay and audit have written.
  const server = await startPostgres({ settings: { autovacuum: 'off', wal_sender_timeout: '2s' } })
  onTestFinished(() => server.remove())
  const env = await createAuditEnv({ database: await server.createDatabase() })
  onTestFinished(() => env.close())
  await env.streamingRelay()
  await env.publish('orders', 1)
  await env.checkpoint()
  // The server writes WAL of its own now and then, which would have the relay confirm the rows: until then it cannot say so.
  const holder = await env.database.connect()
  await holder.query('begin; select from outrider.lineage for update')
  const [lost] = await env.publish('orders', 2)
  await env.redis.xdel('orders', await env.entryOf('orders', lost!))
  expect((await env.audit()).report).toMatchObject({ confirmed: false, counts: { missing: 0 } })
  await holder.query('rollback')
  await holder.end()
  const { code, report } = await env.audit({ wait: '5m' })
  expect([code, report.confirmed, report.findings]).toMatchObject([4, true, [{ kind: 'missing', id: lost }]])
})
