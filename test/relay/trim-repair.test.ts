import { expect } from 'vitest'
import { audit } from '../../src/audit/audit.js'
import { OWN_OUTBOX } from '../../src/config/schema.js'
import { deadKey, waitingKey } from '../../src/event/names.js'
import { positionOf, positionPrefix } from '../../src/event/position.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { findDeadStreams, replayDeadLetters } from '../../src/redis/streams/dead-letters.js'
import { entryOf } from '../../testkit/entry.js'
import { until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { putBack, REPAIR } from './repair-env.js'
import { checkpoint, insertSome, read } from './trim-env.js'

/** What is finished goes within a second, or is to stay until the test has ended: such a stream is looked at every six seconds. */
const YAML = `
streams:
  dead: { retention: 1s }
  shared: { retention: 1s }
  replayed: { retention: 1s }
  kept: { retention: 60s, maxLength: 3 }
  cut: { retention: 60s, maxLength: 2 }
`
const STREAMS = ['dead', 'shared', 'replayed', 'kept', 'cut'] as const
type Events = Record<(typeof STREAMS)[number], string[]>

/** The group has read the next entry, which becomes the first of another stream. */
async function move(env: RelayEnv, stream: string, to: string): Promise<void> {
  const [entry = ''] = await read(env, 'billing', 1, stream)
  const [[, fields]] = (await env.redis.xrange(stream, entry, entry)) as [[string, string[]]]
  await env.redis.xadd(to, '*', ...fields, 'deadreason', 'attempts')
  await env.redis.xack(stream, 'billing', entry)
}

const finish = async (env: RelayEnv, stream: string, group: string, count: number) =>
  env.redis.xack(stream, group, ...(await read(env, group, count, stream)))

test('a repair leaves out what was trimmed, and no event that stayed, or that had left its stream unfinished', async ({
  env,
  configFile,
}) => {
  const relay = await env.streamingRelay({ ...REPAIR, OUTRIDER_CONFIG: await configFile(YAML) })
  for (const stream of STREAMS) await env.redis.xgroup('CREATE', stream, 'billing', '0', 'MKSTREAM')
  await env.redis.xgroup('CREATE', 'replayed', 'mail', '0')
  // An audit knows what was published after the first checkpoint.
  await checkpoint(env)
  const events: Events = { dead: [], shared: [], replayed: [], kept: [], cut: [] }
  const insert = async (counts: Record<keyof Events, number>) => {
    for (const stream of STREAMS) events[stream].push(...(await insertSome(env, stream, counts[stream])))
    return checkpoint(env)
  }
  const first = await insert({ dead: 3, shared: 1, replayed: 1, kept: 2, cut: 2 })
  // Of another database, with the same source: it is farther in its own WAL.
  const { source } = (await env.postgres.query('select source from outrider.lineage')).rows[0]
  const sequence = positionOf(positionPrefix(1, 1n << 62n), 0)
  await env.redis.xadd('shared', '*', ...entryOf({}, { source, more: { sequence } }))
  await insert({ dead: 1, shared: 1, replayed: 1, kept: 3, cut: 2 })

  await finish(env, 'shared', 'billing', 1)
  await finish(env, 'dead', 'billing', 1)
  await move(env, 'dead', deadKey('dead', 'billing'))
  await move(env, 'dead', waitingKey('dead', 'billing'))
  // The other group holds up the stream until the letter is back at its end.
  await move(env, 'replayed', deadKey('replayed', 'billing'))
  const streams = await findDeadStreams(env.redis, { stream: 'replayed' })
  for await (const { done } of replayDeadLetters(env.redis, streams, {})) expect(done).toBe(1)
  await finish(env, 'replayed', 'mail', 1)
  await finish(env, 'kept', 'billing', 5)
  // Past their events of the first part.
  const covering = 'select from outrider.horizon where lsn >= $1'
  await until(async () => ((await env.postgres.query(covering, [first])).rowCount as number) >= STREAMS.length - 1, {
    message: 'the horizons of the other streams',
  })
  // A group that someone has destroyed: what it had finished are other entries from now on.
  await env.redis.xgroup('CREATE', 'dead', 'gone', '$')
  const floor = async () =>
    (await env.postgres.query("select floor from outrider.consumer_group where consumer_group = 'gone'")).rows[0]?.floor
  await until(floor, { message: 'the group to be known' })
  await env.redis.xgroup('DESTROY', 'dead', 'gone')
  const after = async () => Object.fromEntries(await Promise.all(STREAMS.map(async (key) => [key, await env.ids(key)])))
  const stayed = await after()
  expect(stayed).toMatchObject({
    dead: events.dead.slice(3),
    shared: [expect.any(String), events.shared[1]],
    replayed: [events.replayed[1], events.replayed[0]],
    kept: events.kept.slice(2),
    cut: events.cut.slice(2),
  })

  const lasts = STREAMS.map((stream) => events[stream].at(-1))
  await until(
    async () =>
      (await env.postgres.query('select from outrider.head where event_id = any ($1)', [lasts])).rowCount === 5,
    { message: 'the heads to be saved: else the slot makes good the loss' },
  )
  await env.redis.flushall()
  await putBack(env)
  await relay.streaming()
  expect(await floor()).toMatch(/^0-[01]$/)
  const found = await after()
  for (const stream of STREAMS) found[stream]?.sort()
  expect(found).toEqual({
    dead: events.dead.slice(1).toSorted(),
    // Nothing is known of what was trimmed where it is not certain whose the first event is.
    shared: events.shared.toSorted(),
    replayed: events.replayed.toSorted(),
    kept: events.kept.slice(2).toSorted(),
    cut: events.cut.slice(2).toSorted(),
  })

  // What was left out is not called missing afterwards: the streams begin to count again.
  const lineage = (await currentLineage(env.postgres, env.slot))!
  const options = { postgres: env.postgres, redis: env.redis, lineage, mapping: OWN_OUTBOX, wait: 0, limit: 10 }
  const { counts, missingAmongTrimmed, notKnown } = await audit(options)
  expect(counts).toEqual({ missing: 0, extra: 0, altered: 0 })
  expect([missingAmongTrimmed, notKnown.trimmed]).toEqual([0, 5])
})
