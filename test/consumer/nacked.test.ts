import { describe, expect, test as plain } from 'vitest'
import { redisVersion, startRedis, until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { createGroupEnv } from './group-env.js'
import { GROUP, Happened } from './happened.js'
import { leaveBehind } from './watch.js'

describe('entries that were given up with XNACK, on Redis 8.10', () => {
  plain(
    'are found without an owner, and their count of deliveries is one that a script can set',
    async ({ skip, onTestFinished }) => {
      const server = await startRedis({ version: await redisVersion({ skip }, '8.10') })
      onTestFinished(() => server.remove())
      const redis = server.client()
      onTestFinished(() => redis.disconnect())
      const { one, two, given, key, pending } = await createGroupEnv(redis, 'things')
      const nack = (mode: string, id: string) => redis.call('XNACK', key, GROUP, mode, 'IDS', '1', id)
      const [fatal, silent, failed, held] = (await given(one, 4)) as [string, string, string, string]
      await nack('FATAL', fatal)
      await nack('SILENT', silent)
      await nack('FAIL', failed)
      const taken = async (most: number) =>
        (await two.claim(redis, 60_000, most)).taken.map(({ id, deliveryCount }) => [id, deliveryCount])
      expect(await taken(2)).toEqual([
        [fatal, 2 ** 31 - 1],
        [silent, 0],
      ])
      expect(await taken(2)).toEqual([[failed, 1]])
      expect(await taken(2)).toEqual([])
      expect(await two.startDelivery(redis, fatal)).toBe(true)
      expect(await pending()).toEqual([
        [fatal, 'two', 2 ** 31],
        [silent, 'two', 0],
        [failed, 'two', 1],
        [held, 'one', 1],
      ])
      // Released before it was dead-lettered, it is still known to be given up.
      await two.release(redis, [{ id: fatal, uncounted: true }])
      expect((await one.claim(redis, 60_000, 1)).taken[0]?.deliveryCount).toBeGreaterThan(2 ** 30)
    },
  )

  test.for([false, true])(
    'are dead-lettered or done by a worker, ordered: %s',
    async (ordered, { env, skip, onTestFinished }) => {
      const server = await startRedis({ version: await redisVersion({ skip }, '8.10') })
      onTestFinished(() => server.remove())
      const redis = server.client()
      onTestFinished(() => redis.disconnect())
      const ids = await leaveBehind(redis, 'things', [{ n: 0 }, { n: 1 }, { n: 2 }])
      for (const [n, mode] of ['FATAL', 'SILENT', 'FAIL'].entries()) {
        await redis.call('XNACK', 'things', GROUP, mode, 'IDS', '1', ids[n] as string)
      }
      const consumer = env.consumer({ redis: server.url, ordered, claimAfter: '400ms' }).on(Happened, effect)
      await consumer.start()
      await until(async () => (await env.effects()).length === 2)
      await until(async () => ((await redis.xpending('things', GROUP)) as [number])[0] === 0)
      expect((await env.effects()).map(({ n }) => n).sort()).toEqual([1, 2])
      const [[, letter]] = (await redis.xrange('outrider:{things}:dead:billing', '-', '+')) as [[string, string[]]]
      expect(letter[letter.indexOf('deadreason') + 1]).toBe('nacked')
      await consumer.stop({ timeout: 0 })
    },
  )
})
