import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import { needsProcess, startRedis } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { Traffic } from './traffic.js'

/** Longer than `wal_sender_timeout`, several times over. */
const FROZEN = 15_000

/** So little that the relay stops reading: what the server asks then waits in the socket behind events. */
const brimful = {
  OUTRIDER_LIMITS_INFLIGHT_BYTES: '256KiB',
  OUTRIDER_LIMITS_BATCH_BYTES: '64KiB',
  OUTRIDER_MAX_EVENT_BYTES: '64KiB',
}

/** The relay's role gets the time-out that some operators of Postgres set: a silent relay is thrown out after 5 s. */
async function impatient(env: RelayEnv): Promise<void> {
  await env.postgres.query(`alter role relay_${env.database.name} set wal_sender_timeout = '5s'`)
}

test.concurrent('Redis frozen for 15 s: the walsender lives on, and everything arrives once and in order', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const env = await createEnv({ redis })
  await impatient(env)
  const traffic = await Traffic.start(env, { events: 4_000 })
  const relay = await env.streamingRelay(brimful)
  await traffic.more(500)
  const before = await env.walsender()

  await redis.freeze()
  const frozenAt = performance.now()
  await relay.is({ role: 'active', state: 'blocked', reason: 'redis_timeout' })
  const stood = await env.confirmed()
  expect(await relay.status()).toMatchObject({ code: 200, message: expect.stringContaining('no reply') })
  await pause(FROZEN - (performance.now() - frozenAt))
  expect(await env.confirmed()).toBe(stood)
  await redis.thaw()

  await relay.streaming()
  await traffic.sample()
  await traffic.finish()
  expect(before).toBeGreaterThan(0)
  expect(await env.walsender()).toBe(before)
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
})

test.concurrent('Redis killed and restarted from its append-only file: the walsender lives on, and everything arrives once and in order', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis({ settings: { appendonly: 'yes', appendfsync: 'always' } })
  const env = await createEnv({ redis })
  await impatient(env)
  const traffic = await Traffic.start(env)
  const relay = await env.streamingRelay(brimful)
  const before = await env.walsender()
  for (let kill = 0; kill < 3; kill++) {
    await traffic.more(500)
    await redis.kill()
    await relay.is({ role: 'active', state: 'blocked', reason: 'redis_unreachable' })
    expect((await relay.status())?.code).toBe(200)
    // The last time for longer than Postgres waits for a sign of life.
    if (kill === 2) await pause(6_000)
    await redis.start()
    await relay.streaming()
  }
  await traffic.more(500)
  await traffic.finish()
  expect(before).toBeGreaterThan(0)
  expect(await env.walsender()).toBe(before)
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
  expect(await relay.metric('outrider_epochs_total')).toBeGreaterThanOrEqual(4)
})
