import { describe, expect } from 'vitest'
import { listIncidents } from '../../src/postgres/incidents.js'
import { until } from '../../testkit/services/index.js'
import { goesOn, halted, inflict, losses, STREAM, saved } from './redis-loss-env.js'
import { relayTest as test } from './relay-env.js'
import { Traffic } from './traffic.js'

describe.concurrent('a gap within seconds, and nothing newer is published', () => {
  test.for(losses.filter(({ again }) => !again))(
    'after $what, under load',
    { timeout: 90_000 },
    async (loss, { env }) => {
      const traffic = await Traffic.start(env, { streams: [STREAM, 'users'], writers: 1 })
      const relay = await env.streamingRelay()
      await saved(env, 2)
      await traffic.more(100)

      const left = await inflict(env, loss)
      await traffic.more(100)
      const incidents = await halted(env, relay)
      expect(await env.redis.xlen(STREAM)).toBe(left)
      expect(incidents.map(({ stream }) => stream).sort()).toEqual(loss.streams)
      await traffic.stop()
      await goesOn(env, relay, incidents)
    },
  )
})

test.concurrent('FLUSHALL before anything was confirmed loses nothing: the slot still has it', async ({ env }) => {
  const relay = await env.streamingRelay()
  const ids = [await env.insert(STREAM), await env.insert(STREAM), await env.insert(STREAM)]
  await until(async () => (await env.ids(STREAM)).length === ids.length)
  await env.redis.flushall()
  expect(await env.redis.exists(STREAM)).toBe(0)
  await until(async () => (await env.ids(STREAM)).length === ids.length, { message: 'the events to come again' })
  expect(await env.ids(STREAM)).toEqual(ids)
  expect(await relay.metric('outrider_sessions_total')).toBe(2)
  expect(await listIncidents(env.postgres)).toEqual([])
})
