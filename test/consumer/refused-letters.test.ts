import { expect } from 'vitest'
import { deadKey } from '../../src/event/names.js'
import { needsProcess, until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { metricOf } from './watch.js'

const POISON = 1_500
const HEALTHY = 50
const DEAD = deadKey('things', GROUP)

test.for(['the user may not write', 'the key is of another type'])(
  'more dead letters than a worker holds, refused because %s, keep no other event, and none is lost',
  async (why, { env, skip }) => {
    needsProcess({ skip }, ['redis'])
    const { redis, server } = env
    await redis.call('ACL', 'SETUSER', 'worker', 'on', '>secret', '~*', '+@all')
    const mayNot = why === 'the user may not write'
    if (mayNot) await redis.call('ACL', 'SETUSER', 'worker', '-xadd')
    else await redis.set(DEAD, 'no stream')
    const ids = new Set<string>()
    const numbers = (count: number) => Array.from({ length: count }, (_, n) => ({ n }))
    const invalid = numbers(POISON).map(({ n }) => ({ n: String(n) }))
    for (const id of await env.append('things', invalid)) ids.add(id)
    await env.append('things', numbers(HEALTHY))
    const url = server.url.replace('//', '//worker:secret@')
    const consumer = env.consumer({ redis: url, claimAfter: '200ms' }).on(Happened, effect)
    // Of each of so many handlers a worker holds fewer that wait.
    for (let n = 0; n < 100; n++) consumer.on({ ...Happened, stream: 'others', type: `thing.${n}` }, effect)
    await consumer.start()
    let held = 0
    await until(async () => {
      held = Math.max(held, await metricOf(consumer, 'held'))
      return (await env.effects()).length === HEALTHY && (await env.pending('things')) === POISON
    })
    // 25 that wait at most, and what is read ahead and released again.
    expect(held).toBeLessThan(250)
    if (mayNot) await redis.call('ACL', 'SETUSER', 'worker', '+xadd')
    else await redis.del(DEAD)
    // The next attempt of those that are held is made within 30 s.
    await until(async () => (await env.pending('things')) === 0, { timeout: 120_000 })
    const dead = await env.dead('things')
    expect(dead).toHaveLength(POISON)
    expect(new Set(dead.map(({ id }) => id))).toEqual(ids)
    expect(await env.effects()).toHaveLength(HEALTHY)
  },
)
