import { describe, expect } from 'vitest'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import { until } from '../../testkit/services/index.js'
import { losses, STREAM, underLoad } from './redis-loss-env.js'
import { relayTest as test } from './relay-env.js'

describe.concurrent('a gap within seconds, and nothing newer is published', () => {
  // The others in redis-loss.slow.test.ts.
  underLoad(losses.filter(({ what }) => what === 'FLUSHALL' || what === 'DEL of a head'))
})

test.concurrent('FLUSHALL before anything was confirmed loses nothing: the slot still has it', async ({ env }) => {
  const relay = await env.streamingRelay()
  const ids = [await env.insert(STREAM), await env.insert(STREAM), await env.insert(STREAM)]
  await until(async () => (await env.ids(STREAM)).length === ids.length)
  const replies = await env.redis.multi().flushall().exists(STREAM).exec()
  expect(replies?.at(-1)).toEqual([null, 0])
  await until(async () => (await env.ids(STREAM)).length === ids.length, { message: 'the events to come again' })
  expect(await env.ids(STREAM)).toEqual(ids)
  expect(await relay.metric('outrider_sessions_total')).toBe(2)
  expect(await listIncidents(env.postgres)).toEqual([])
})
