import { expect } from 'vitest'
import { daDK, needsProcess, startRedis } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'
import { Traffic } from './traffic.js'

test.concurrent('Redis under a Danish locale: everything arrives', async ({ createEnv, skip }) => {
  needsProcess({ skip }, ['redis'])
  const locale = await daDK()
  if (!locale) return skip('the locale da_DK cannot be had here')
  const env = await createEnv({ redis: await startRedis({ env: locale }) })
  expect(await env.redis.eval("return tostring('aa' < 'z')", 0)).toBe('false')
  const traffic = await Traffic.start(env, { writers: 4, every: 0 })
  const relay = await env.streamingRelay()
  await traffic.more(300)
  // A new session meets the heads that the first one left.
  await relay.kill()
  await env.relay()
  await traffic.more(300)
  expect((await traffic.finish()).length).toBeGreaterThanOrEqual(600)
})
