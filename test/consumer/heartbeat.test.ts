import { expect, onTestFinished } from 'vitest'
import { heartbeat } from '../../src/consumer/read/heartbeat.js'
import { ReconnectingClient } from '../../src/consumer/redis/reconnecting-client.js'
import { connectRedis } from '../../src/redis/client/connect.js'
import { until } from '../../testkit/services/index.js'
import { groupTest as test } from './group-env.js'
import { GROUP } from './happened.js'

const CLAIM_AFTER_MS = 60_000

test('a heartbeat in several parts revives nothing that was released before its part was sent', async ({
  env,
  server,
}) => {
  const { redis, key, one, given, idle } = env
  const all = await given(one, 300)
  const [kept, released] = [all.slice(0, 100), all.slice(100)]
  await idle(one, CLAIM_AFTER_MS, ...all)
  const idleOf = async () =>
    (await redis.xpending(key, GROUP, '-', '+', 1_000)) as [id: string, consumer: string, idle: number][]
  const log = { debug() {}, info() {}, warn() {}, error() {} }
  const link = new ReconnectingClient(() => connectRedis({ url: server.url, connectTimeout: 5_000 }, 'one'), log)
  const end = new AbortController()
  onTestFinished(() => {
    end.abort()
    link.close()
  })
  await link.open()
  // The script is known from here on, so that one call of it is one command.
  await one.release(redis, [{ id: '1-1', uncounted: true }])
  const held = new Set(all)
  let parts = 0
  const worker = {
    idsOf: () => [...held],
    has: (_: unknown, id: string) => held.has(id),
    // The reply to a part: before the next one is sent, the worker stops, and releases all but what runs.
    lose() {
      parts += 1
      if (parts > 1) return
      for (const id of released) held.delete(id)
      const entries = released.map((id) => ({ id, uncounted: true }))
      void link.request((client) => one.release(client, entries))
    },
    deleted() {},
  }
  void heartbeat({ worker, link, groups: () => [one], claimAfter: 30, signal: end.signal })
  await until(() => parts >= 3)
  const pending = await idleOf()
  expect(pending.filter(([, , ms]) => ms < CLAIM_AFTER_MS).map(([id]) => id)).toEqual(kept)
})
