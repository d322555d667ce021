import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Redis as Client } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, type Redis, startRedis, until } from '../../testkit/services/index.js'
import { createRelayEnv, type RelayEnv } from './relay-env.js'
import { Traffic } from './traffic.js'

const USER = 'relay'

interface Fault {
  what: string
  reason: string
  /** The connection may be closed before the reason is read. */
  abrupt?: true
  /** Until confirming what is not there would have shown: level memory confirms after 5 s. */
  lasting?: true
  /** Nobody can read from it meanwhile. */
  mute?: true
  inflict(): Promise<unknown>
  lift(): Promise<unknown>
}

// One relay lives through all of them, under load: one after the other, and what it did is judged in the end.
describe('Redis refuses', () => {
  let redis: Redis
  let env: RelayEnv
  let traffic: Traffic
  let relay: RelayProcess
  let walsender: number
  /** As the default user, who keeps all permissions. */
  let admin: Client

  beforeAll(async () => {
    if (process.env.OUTRIDER_TEST_REDIS_URL) return
    redis = await startRedis()
    env = await createRelayEnv({ redis })
    admin = env.redis
    await admin.call('ACL', 'SETUSER', USER, 'on', '>secret', '~*', '+@all')
    await env.postgres.query(`alter role relay_${env.database.name} set wal_sender_timeout = '5s'`)
    traffic = await Traffic.start(env)
    const url = new URL(redis.url)
    url.username = USER
    relay = await env.relay({ OUTRIDER_REDIS_URL: url.href, OUTRIDER_REDIS_PASSWORD: 'secret' })
    await relay.streaming()
    walsender = await env.walsender()
  })

  afterAll(async () => {
    await traffic?.stop()
    await env?.close()
  })

  const set = (name: string, value: string) => admin.call('CONFIG', 'SET', name, value)
  const acl = (...rules: string[]) => admin.call('ACL', 'SETUSER', USER, ...rules)
  const killRelay = () => admin.call('CLIENT', 'KILL', 'USER', USER)

  const faults: Fault[] = [
    {
      what: 'OOM',
      reason: 'redis_oom',
      lasting: true,
      inflict: () => set('maxmemory', '1mb'),
      lift: () => set('maxmemory', '0'),
    },
    {
      what: 'READONLY',
      reason: 'redis_readonly',
      inflict: () => admin.call('REPLICAOF', '127.0.0.1', '1'),
      lift: () => admin.call('REPLICAOF', 'NO', 'ONE'),
    },
    {
      what: 'MASTERDOWN',
      reason: 'redis_masterdown',
      mute: true,
      async inflict() {
        await set('replica-serve-stale-data', 'no')
        await admin.call('REPLICAOF', '127.0.0.1', '1')
      },
      lift: () => admin.call('REPLICAOF', 'NO', 'ONE'),
    },
    {
      what: 'MISCONF',
      reason: 'redis_misconf',
      async inflict() {
        // A folder where the file should be: saving fails.
        mkdirSync(join(redis.dataDir, 'dump.rdb'))
        await set('save', '3600 1000000')
        await admin.call('BGSAVE')
        await until(async () => /rdb_last_bgsave_status:err/.test(await admin.info('persistence')))
      },
      async lift() {
        await set('save', '')
        rmSync(join(redis.dataDir, 'dump.rdb'), { recursive: true })
      },
    },
    {
      what: 'NOREPLICAS',
      reason: 'redis_noreplicas',
      inflict: () => set('min-replicas-to-write', '1'),
      lift: () => set('min-replicas-to-write', '0'),
    },
    {
      what: 'BUSY',
      reason: 'redis_busy',
      mute: true,
      async inflict() {
        await set('busy-reply-threshold', '50')
        redis
          .client()
          .eval('while true do end', 0)
          .catch(() => {})
      },
      async lift() {
        await admin.call('SCRIPT', 'KILL')
        // Any other command is still refused until the script has noticed.
        await until(() => admin.ping())
      },
    },
    {
      what: 'WRONGPASS',
      reason: 'redis_credentials',
      async inflict() {
        await acl('resetpass', '>other')
        await killRelay()
      },
      lift: () => acl('>secret'),
    },
    {
      what: 'the user, who is off',
      reason: 'redis_credentials',
      async inflict() {
        await acl('off')
        await killRelay()
      },
      lift: () => acl('on'),
    },
    {
      what: 'more clients',
      reason: 'redis_maxclients',
      abrupt: true,
      async inflict() {
        await set('maxclients', '1')
        await killRelay()
      },
      lift: () => set('maxclients', '1000'),
    },
    ...['evalsha', 'xadd', 'hset', 'hmget', 'xinfo', 'script'].map((command) => ({
      what: `the command ${command}`,
      reason: 'redis_noperm',
      async inflict() {
        await acl(`-${command}`)
        // Scripts are made known once on each connection.
        if (command === 'script') await killRelay()
      },
      lift: () => acl(`+${command}`),
    })),
  ]

  it.for(faults)(
    '$what: the relay says so, stays ready and confirms nothing that is not there',
    async (fault, { skip }) => {
      needsProcess({ skip }, ['redis'])
      await traffic.more(50)
      const since = await connections()
      const at = performance.now()
      await fault.inflict()
      try {
        await relay.is({ role: 'active', state: 'blocked', reason: fault.reason })
        const enough = performance.now() + (fault.lasting ? 8_000 : 0)
        do await traffic.more(50)
        while (performance.now() < enough)
        if (!fault.mute) await traffic.sample()
        for (let look = 0; look < 5; look++) {
          expect(await relay.status()).toMatchObject({
            code: 200,
            role: 'active',
            state: 'blocked',
            reason: fault.abrupt ? expect.stringMatching(/maxclients|unreachable/) : fault.reason,
          })
          await traffic.more(10)
        }
      } finally {
        await fault.lift()
      }
      // It tries again with growing pauses, not as fast as it can.
      expect((await connections()) - since).toBeLessThan(10 + (performance.now() - at) / 100)
      await relay.streaming()
      await traffic.sample()
    },
  )

  it('NOSCRIPT: the script is made known again', async ({ skip }) => {
    needsProcess({ skip }, ['redis'])
    const epochs = async () => (await relay.metric('outrider_epochs_total')) ?? 0
    const before = await epochs()
    for (let n = 0; n < 5; n++) {
      const now = await epochs()
      await admin.script('FLUSH')
      await until(async () => (await epochs()) > now)
      await traffic.more(20)
    }
    await relay.streaming()
    expect(await epochs()).toBeGreaterThanOrEqual(before + 5)
  })

  it('connections, which are killed again and again', async ({ skip }) => {
    needsProcess({ skip }, ['redis'])
    for (let killed = 0; killed < 20; ) {
      killed += (await killRelay()) as number
      await traffic.more(10)
    }
    await relay.streaming()
  })

  it('and after all of that everything has arrived once and in order, over one walsender', async ({ skip }) => {
    needsProcess({ skip }, ['redis'])
    const truth = await traffic.finish()
    expect(truth.length).toBeGreaterThan(1_000)
    expect(await env.walsender()).toBe(walsender)
    expect(await relay.metric('outrider_sessions_total')).toBe(1)
    const { rows } = await env.postgres.query('select reason, detail from outrider.incident')
    expect(rows).toEqual([])
  })

  async function connections(): Promise<number> {
    const info = await admin.info('stats')
    return Number(/total_connections_received:(\d+)/.exec(info)?.[1])
  }
})
