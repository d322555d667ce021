import { expect, test } from 'vitest'
import { createAuditEnv } from './audit-env.js'

test('an audit waits until an idle relay has confirmed the rows that lack their entry', async ({ onTestFinished }) => {
  const env = await createAuditEnv()
  onTestFinished(() => env.close())
  await env.streamingRelay()
  await env.publish('orders', 1)
  await env.checkpoint()
  const [lost] = await env.publish('orders', 2)
  await env.redis.xdel('orders', await env.entryOf('orders', lost!))
  expect((await env.audit()).report).toMatchObject({ confirmed: false, counts: { missing: 0 } })
  const { code, report } = await env.audit({ wait: '60s' })
  expect([code, report.confirmed, report.findings]).toMatchObject([4, true, [{ kind: 'missing', id: lost }]])
})
