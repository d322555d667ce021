import { describe, expect } from 'vitest'
import { needsProcess, startPostgres, startRedis, until } from '../../testkit/services/index.js'
import { goesOn, halted, headOf, inflict, losses, lostStreams, STREAM, saved, underLoad } from './redis-loss-env.js'
import { relayTest as test } from './relay-env.js'

// Each waits most of the time: for the 5 s after which level memory confirms, and for the relay to look again.
describe.concurrent('a gap within seconds, and nothing newer is published', () => {
  underLoad(losses.filter(({ what }) => what === 'DEL of a stream'))

  test.for(losses)('after $what, where nothing flows', async (loss, { env }) => {
    const relay = await env.streamingRelay()
    await env.insert('users')
    for (let n = 0; n < 4; n++) await env.insert(STREAM, { n })
    const last = await env.insert(STREAM, { n: 4 })
    await saved(env, 2, last)
    const position = await env.redis.hget(await headOf(env), 'position')

    const left = await inflict(env, loss)
    const incidents = await halted(env, relay)
    expect(await env.redis.xlen(STREAM)).toBe(left)
    expect(incidents).toHaveLength(1)
    const lost = await lostStreams(env)
    expect(Object.keys(lost)).toEqual(loss.streams)
    expect(lost[STREAM]).toMatchObject({
      expected: { position, event: last },
      until: expect.any(String),
      events: loss.headAlone ? null : 5,
    })
    await goesOn(env, relay, incidents)
  })
})

test.concurrent('a gap after Redis came back with an older copy of its data', async ({ createEnv, skip }) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis({ settings: { appendonly: 'yes', appendfsync: 'always' } })
  const env = await createEnv({ redis })
  const relay = await env.streamingRelay()
  const kept = [await env.insert(STREAM), await env.insert(STREAM)]
  await until(async () => (await env.ids(STREAM)).length === kept.length)
  const copy = await redis.cloneData()
  for (let n = 0; n < 3; n++) await env.insert(STREAM)
  const last = await env.insert(STREAM)
  await saved(env, 1, last)

  await redis.restore(copy)
  const incidents = await halted(env, relay)
  expect(await env.ids(STREAM)).toEqual(kept)
  expect(Object.values(await lostStreams(env))).toEqual([
    expect.objectContaining({
      expected: expect.objectContaining({ event: last }),
      found: expect.objectContaining({ event: kept.at(-1) }),
      events: 4,
    }),
  ])
  await goesOn(env, relay, incidents)
})

test('while the next session counts what Redis lost, its looks at the slot wait, and the gap is what it says', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  // Its own: the lock is an open transaction, which holds up every new slot of the server.
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const database = await server.createDatabase()
  const env = await createEnv({ database })
  const first = await env.streamingRelay()
  await saved(env, 1, await env.insert(STREAM))
  await first.stop()
  await env.redis.flushall()

  // The count gives up after 5 s, and leaves a transaction that takes nothing but its rollback.
  const locker = await database.connect()
  onTestFinished(() => locker.end())
  await locker.query('begin; lock table outrider.outbox in access exclusive mode')
  const relay = await env.relay()
  await relay.is({ role: 'halted' })
  const halts = await relay.logged(({ role }) => role === 'halted')
  expect(halts.map(({ reason }) => reason)).toEqual(['stream_behind'])
  await locker.query('rollback')
  expect(await halted(env, relay)).toHaveLength(1)
})
