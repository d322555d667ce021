import { expect } from 'vitest'
import { z } from 'zod'
import { statesOf } from '../../src/consumer/maintenance.js'
import { defineEvent } from '../../src/index.js'
import { ConsumerGroup } from '../../src/redis/streams/consumer-group.js'
import { needsProcess, until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'

const Other = defineEvent({ stream: 'others', type: 'thing.other', version: 1, data: z.object({ n: z.number() }) })

// A server that refuses at once would otherwise be asked thousands of times a second, or connected to hundreds of times.
for (const ordered of [false, true]) {
  const reader = ordered ? 'an ordered reader' : 'a reader'
  for (const refusal of ['permission', 'role'] as const) {
    const why = refusal === 'permission' ? 'for want of permission' : 'by a replica'
    test(`${reader} that is refused ${why} asks ever more seldom, says so once, and continues when it may`, async ({
      env,
      skip,
    }) => {
      needsProcess({ skip }, ['redis'])
      const { redis, server, logs } = env
      await redis.call('ACL', 'SETUSER', 'worker', 'on', '>secret', '~*', '+@all')
      const url = server.url.replace('//', '//worker:secret@')
      await env.consumer({ ordered, redis: url }).on(Happened, effect).start()
      await env.append('things', [{ n: 1 }], { subject: 's' })
      await env.drained('things', 1)

      const errors = async () => Number(/total_error_replies:(\d+)/.exec(await redis.info('stats'))?.[1])
      const [before, said] = [await errors(), logs.length]
      if (refusal === 'permission') await redis.call('ACL', 'SETUSER', 'worker', '-xreadgroup')
      else await redis.replicaof('127.0.0.1', '1')
      const began = performance.now()
      await until(async () => (await errors()) >= before + 6)
      expect(performance.now() - began).toBeGreaterThan(150)
      const warned = logs.slice(said).filter(({ level }) => level === 'warn')
      expect(warned.map(({ reason }) => reason)).toContain(refusal === 'permission' ? 'redis_noperm' : 'redis_readonly')
      // One for each of its two connections, and one for a read that the change has ended.
      expect(warned.length).toBeLessThanOrEqual(3)

      if (refusal === 'permission') await redis.call('ACL', 'SETUSER', 'worker', '+xreadgroup')
      else await redis.replicaof('NO', 'ONE')
      await env.append('things', [{ n: 2 }], { subject: 's' })
      await env.drained('things', 2)
    })
  }
}

test.for([false, true])(
  'a worker that nothing refuses waits a second in each read, and no longer, ordered: %s',
  async (ordered, { env }) => {
    const { redis } = env
    const consumer = env.consumer({ ordered, claimAfter: '1m' }).on(Happened, effect)
    await consumer.start()
    await env.append('things', [{ n: 0 }])
    await env.drained('things', 1)
    const reads = async () => {
      const stats = await redis.info('commandstats')
      const calls = [...stats.matchAll(/cmdstat_(?:xread|xreadgroup):calls=(\d+)/g)]
      return calls.reduce((sum, [, count]) => sum + Number(count), 0)
    }
    const began = performance.now()
    const before = await reads()
    await until(async () => (await reads()) >= before + 4)
    const seconds = (performance.now() - began) / 1_000
    // Of an ordered worker, each look after a second is another read.
    expect(seconds).toBeGreaterThan(ordered ? 1 : 2)
    // It stops within such a wait.
    const stopped = performance.now()
    await consumer.stop()
    expect(performance.now() - stopped).toBeLessThan(10_000)
  },
)

test.for([false, true])(
  'a stream that refuses does not slow down the others, ordered: %s',
  async (ordered, { env }) => {
    const { redis } = env
    await env.consumer({ ordered, prefetch: 20, maxPending: 20 }).on(Happened, effect).on(Other, effect).start()
    await env.append('things', [{ n: 0 }])
    await env.append('others', [{ n: 0 }], { type: Other.type })
    await env.drained('things', 2)
    let done = 2
    /** How long events take, in milliseconds. */
    const work = async (events: number) => {
      await env.append(
        'things',
        Array.from({ length: events }, (_, n) => ({ n })),
      )
      const began = performance.now()
      done += events
      await env.drained('things', done)
      return performance.now() - began
    }
    const usual = await work(300)
    const errors = async () => Number(/total_error_replies:(\d+)/.exec(await redis.info('stats'))?.[1])
    const before = await errors()
    await redis.rename('others', 'kept:others')
    await redis.set('others', 'no stream')
    // Then the pauses are long.
    await until(async () => (await errors()) >= before + 8)
    // With a pause of a second before each read of 20 it would be 15 s more.
    expect(await work(300)).toBeLessThan(1.5 * usual + 6_000)
    // The metrics of the others are collected on.
    const groups = ['others', 'things'].map((key) => new ConsumerGroup(key, GROUP, 'one'))
    expect(await statesOf(redis, groups)).toMatchObject([{ stream: 'things' }])
    await redis.rename('kept:others', 'others')
    await env.append('others', [{ n: 1 }], { type: Other.type })
    await env.drained('others', done + 1)
  },
)
