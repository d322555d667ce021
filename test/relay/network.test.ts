import { expect } from 'vitest'
import { until } from '../../testkit/services/index.js'
import { through } from './proxied-relay.js'
import { relayTest as test } from './relay-env.js'
import { Traffic } from './traffic.js'

test.concurrent('replies of Redis that are lost after the command was applied: nothing comes twice', async ({
  createEnv,
  onTestFinished,
}) => {
  const { env, proxy, start } = await through('redis', { createEnv, onTestFinished })
  const relay = await start()
  const traffic = await Traffic.start(env)
  await relay.streaming()
  for (let n = 0; n < 10; n++) {
    await traffic.more(30)
    const before = proxy.passed('down')
    proxy.cutAfter(1 + n * 7, 'down')
    await until(() => proxy.passed('down') > before)
    await relay.streaming()
  }
  await traffic.finish()
  expect(await relay.metric('outrider_events_skipped_total')).toBeGreaterThan(0)
})

test.concurrent('connections to Redis that are reset in the middle of a batch', async ({
  createEnv,
  onTestFinished,
}) => {
  const { env, proxy, start } = await through('redis', { createEnv, onTestFinished })
  const relay = await start()
  const traffic = await Traffic.start(env)
  await relay.streaming()
  const before = (await relay.metric('outrider_epochs_total')) as number
  for (let n = 0; n < 10; n++) {
    proxy.cutAfter(4_000 + n * 700, 'up')
    await traffic.more(60)
    await relay.streaming()
  }
  await traffic.finish()
  expect(await relay.metric('outrider_epochs_total')).toBeGreaterThan(before + 3)
})
