import { once } from 'node:events'
import { describe, expect } from 'vitest'
import { z } from 'zod'
import { DeadLetter, Retry } from '../../src/consumer/index.js'
import { defineEvent } from '../../src/index.js'
import { entryOf } from '../../testkit/entry.js'
import { type RedisVersion, until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, consumerTest as test } from '../consumer/consumer-env.js'
import { expectRefused, expectRefusedInScript, type Guarded, granted, startGuarded } from './acl.js'

export const Placed = defineEvent({
  stream: 'orders',
  type: 'thing.happened',
  version: 1,
  data: z.object({ n: z.number() }),
})

export const KEYS = { plain: ['orders'], partitioned: ['orders:0', 'orders:1'] }
const EVENTS = 12

/**
 * Everything that a worker does: reads, does, tries again, sets aside, gives up, keeps alive what takes long, releases it when it
 * stops, takes over what was let go of, leaves. What the tests themselves ask of Redis, they ask before.
 */
export async function work(
  { admin, url, forget }: Guarded,
  env: ConsumerEnv,
  keys: readonly string[],
  ordered: boolean,
): Promise<void> {
  if (keys.length > 1) await admin.set('outrider:{orders}:partitions', keys.length)
  for (let n = 0; n < EVENTS; n++) {
    await admin.xadd(keys[n % keys.length] as string, '*', ...entryOf({ n }, { subject: `s${n}` }))
  }
  await forget()
  const options = { redis: url('consumer'), group: 'billing', ordered }
  const done = async (count: number) => until(async () => (await env.effects()).length === count)

  let frozen = true
  const handler: Parameters<ReturnType<typeof env.consumer>['on']>[1] = async (event, context) => {
    const { n } = event.data as { n: number }
    if (n === 3 && context.attempt === 1) throw new Error('not yet')
    if (n === 5) throw new DeadLetter('never')
    if (n === 9 && !ordered) throw new Retry({ after: '11m' })
    if (n === 7 && frozen) await once(context.signal, 'abort').then(() => Promise.reject(context.signal.reason))
    await effect(event as never, context as never)
  }
  const first = env.consumer(options).on(Placed, handler as never)
  await first.start()
  const setAside = ordered ? 0 : 1
  await done(EVENTS - 2 - setAside)
  // Longer than a third of `claimAfter`: the one that is frozen was kept alive.
  await until(async () => ((await first.stats()).idleSeconds ?? 0) > 1)
  await first.stop({ timeout: 0 })

  frozen = false
  const second = env.consumer(options).on(Placed, handler as never)
  await second.start()
  await done(EVENTS - 1 - setAside)
  await until(async () => (await second.stats()).streams.every(({ pending }) => pending === 0))
  expect((await second.stats()).streams.map(({ stream }) => stream)).toEqual(keys)
  await second.stop()
}

/** What the documented ACL of a worker permits, on each of these versions. */
export function consumerRoles(versions: readonly RedisVersion[]): void {
  describe.each(versions)('a worker on %s', (version: RedisVersion) => {
    test.for(['plain', 'partitioned'] as const)(
      'does all its work under its line, and uses every command of it: a %s stream',
      async (kind, { env, skip }) => {
        const guarded = await startGuarded({ skip }, version, ['consumer'])
        await work(guarded, env, KEYS[kind], false)
        expect(await guarded.called()).toEqual(granted('consumer'))
        expect(await guarded.refused()).toEqual([])
        const dead = await Promise.all(KEYS[kind].map((key) => guarded.admin.xlen(`outrider:{${key}}:dead:billing`)))
        expect(dead.reduce((sum, length) => sum + length, 0)).toBe(1)
      },
    )

    test.for(['plain', 'partitioned'] as const)(
      'of an ordered group does all its work under both, and uses every command of the second: a %s stream',
      async (kind, { env, skip }) => {
        const guarded = await startGuarded({ skip }, version, ['consumer', 'ordered'])
        await work(guarded, env, KEYS[kind], true)
        const called = await guarded.called()
        expect(granted('consumer', 'ordered')).toEqual(expect.arrayContaining(called))
        expect(called).toEqual(expect.arrayContaining(granted('ordered')))
        expect(await guarded.refused()).toEqual([])
      },
    )

    test('may do no more than that', async ({ skip }) => {
      const guarded = await startGuarded({ skip }, version, ['consumer', 'ordered'])
      await guarded.admin.xadd('orders', '1-1', 'a', 'b')
      const client = guarded.as('consumer')
      await expectRefused(client, FORBIDDEN)
      await expectRefusedInScript(client, 'orders', FORBIDDEN)
      expect(await guarded.admin.xlen('orders')).toBe(1)
    })
  })
}

const FORBIDDEN = [
  // To forge, or to undo, what the relay has published.
  'XADD orders * a b',
  'XADD orders:0 * a b',
  'DEL orders',
  'SET orders x',
  'HSET orders a b',
  'UNLINK orders',
  'RENAME orders other',
  'EXPIRE orders 1',
  'XTRIM orders MAXLEN 0',
  'XDEL orders 1-1',
  'XSETID orders 9-9',
  // The group as a whole, and those of others.
  'XGROUP DESTROY orders billing',
  'XGROUP DESTROY orders mail',
  'XGROUP SETID orders mail $',
  'XAUTOCLAIM orders mail me 0 0',
  'XADD outrider:{orders}:dead:mail * a b',
  'XRANGE outrider:{orders}:dead:mail - +',
  'HDEL outrider:{orders}:retries:mail 1-1',
  'SET outrider:{orders}:fence:mail 9',
  // Its own dead letters, once they are there.
  'DEL outrider:{orders}:dead:billing',
  'XDEL outrider:{orders}:dead:billing 1-1',
  // The relay's keys.
  'SET outrider:{orders}:partitions 9',
  'GET outrider:{orders}:head:x',
  'HGET outrider:{orders}:head:x position',
  'HSET outrider:{orders}:head:x position 1',
  'DEL outrider:{orders}:head:x',
  // Other keys.
  'XREADGROUP GROUP billing me STREAMS payments >',
  'XREADGROUP GROUP billing me STREAMS ordersarchive >',
  'XRANGE payments - +',
  'GET session:1',
  'KEYS *',
  'SCAN 0',
  // The server.
  'FLUSHALL',
  'FLUSHDB',
  'INFO',
  'CONFIG GET requirepass',
  'CONFIG SET maxmemory 1',
  'ACL LIST',
  'ACL SETUSER billing +@all',
  'CLIENT LIST',
  'CLIENT KILL TYPE normal',
  'SCRIPT FLUSH',
  'EVAL return 0',
  'FUNCTION LIST',
  'MONITOR',
  'REPLICAOF NO ONE',
  'SHUTDOWN NOSAVE',
  'SUBSCRIBE x',
  'PUBLISH x y',
]
