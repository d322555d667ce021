import { expect } from 'vitest'
import { needsProcess, until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { Happened } from './happened.js'

// A server that refuses at once would otherwise be asked thousands of times a second, or connected to hundreds of times.
for (const ordered of [false, true]) {
  const reader = ordered ? 'an ordered reader' : 'a reader'
  for (const refusal of ['permission', 'role'] as const) {
    const why = refusal === 'permission' ? 'for want of permission' : 'by a replica'
    test(`${reader} that is refused ${why} asks ever more seldom, says so once, and goes on when it may`, async ({
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
