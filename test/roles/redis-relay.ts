import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { LEVELS } from '../../src/redis/streams/durability.js'
import { type RedisVersion, startRedis, until } from '../../testkit/services/index.js'
import { runCheck } from '../check/run.js'
import { createRelayEnv, type RelayEnv } from '../relay/relay-env.js'
import { expectRefused, expectRefusedInScript, type Guarded, grant, granted, hasWaitAof, startGuarded } from './acl.js'

async function relayEnvOf({ server, url }: Guarded, partitions: Record<string, number>): Promise<RelayEnv> {
  const redis = { url: url('relay'), client: server.client.bind(server), remove: async () => {} }
  const env = await createRelayEnv({ redis, partitions })
  onTestFinished(() => env.close())
  return env
}

/** The path of a file with this text. */
async function fileOf(text: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'outrider-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  const file = join(folder, 'outrider.yaml')
  await writeFile(file, text)
  return file
}

const SUBJECTS = ['a', 'b', 'c', 'd']

/** Inserts an event of each subject, and waits until Postgres may forget them. */
async function confirmed(env: RelayEnv): Promise<void> {
  for (const subject of SUBJECTS) await env.insert('orders', {}, subject)
  const [row] = (await env.postgres.query('select pg_current_wal_lsn()::text as lsn')).rows
  const reached = 'select confirmed_flush_lsn >= $2::pg_lsn as done from pg_replication_slots where slot_name = $1'
  await until(async () => (await env.postgres.query(reached, [env.slot, row.lsn])).rows[0].done, {
    message: `${SUBJECTS.length} events confirmed`,
  })
}

/** The line of a relay as it was in docs/redis-acl.md before relays repaired gaps and trimmed streams. */
const EARLIER = `ACL SETUSER relay reset on >change-me resetchannels
  +ping +client|setname +script|load +role +wait +waitaof +info
  +evalsha +hmget +hset +xadd +xinfo|stream
  ~orders ~orders:* ~outrider:{orders}:head:* ~outrider:{orders:*}:head:*
  ~ping ~outrider:{ping}:head:* ~outrider:{check}:*
  (+set ~outrider:{orders}:partitions ~outrider:{*}:alive ~outrider:{trial}:* ~outrider:{check}:*)
  (+del ~outrider:{orders}:head:* ~outrider:{orders:*}:head:* ~outrider:{ping}:head:* ~outrider:{trial}:* ~outrider:{check}:*)`

/** That a relay's line permits each command that it needs for a stream of so many partitions, and no other. */
export function relayWork(version: RedisVersion, partitions: number): void {
  test(`does all its work under its line, and uses every command of it: ${partitions} partitions`, async ({ skip }) => {
    const fsync = { appendonly: 'yes', appendfsync: 'always' }
    const guarded = await startGuarded({ skip }, version, ['relay'], fsync)
    const { server, admin } = guarded
    const replica = await startRedis({ replicaOf: server, settings: fsync })
    onTestFinished(() => replica.remove())
    await until(async () => /connected_slaves:1/.test(await admin.info('replication')))
    const env = await relayEnvOf(guarded, partitions > 1 ? { orders: partitions } : {})
    const keys = partitions > 1 ? ['orders:0', 'orders:1'] : ['orders']
    const levels = (await hasWaitAof(admin)) ? LEVELS : LEVELS.filter((level) => !level.includes('fsync'))
    // Of another publisher: the first entry is finished, the second is pending. A lineage that has ended was in the same streams.
    for (const key of keys) {
      const first = (await admin.xadd(key, '*', 'a', 'b')) as string
      await admin.xadd(key, '*', 'a', 'b')
      await admin.xgroup('CREATE', key, 'billing', '0')
      await admin.xreadgroup('GROUP', 'billing', 'worker', 'STREAMS', key, '>')
      await admin.xack(key, 'billing', first)
    }
    await env.postgres.query(
      `insert into outrider.lineage (slot, publication, source, outbox_table, system_id, timeline, publication_state, retired_at)
       select 'ended', publication, source, outbox_table, system_id, timeline, publication_state, now() from outrider.lineage`,
    )
    await guarded.forget()

    for (const level of levels) {
      const relay = await env.streamingRelay({ OUTRIDER_DURABILITY: level })
      await confirmed(env)
      expect(await relay.metric(`outrider_durability_level{level="${level}"}`)).toBe(1)
      await relay.stop()
    }
    const trimming = await env.streamingRelay({ OUTRIDER_CONFIG: await fileOf('streams: { "*": { retention: 1s } }') })
    const trimmed = async () => (await trimming.metric('outrider_entries_trimmed_total')) ?? 0
    await until(async () => (await trimmed()) === keys.length, { message: 'the finished entries to go' })
    await trimming.stop()

    // Heads that no saved head knows, and their streams are gone: the relay removes them and begins again.
    await env.postgres.query('delete from outrider.head')
    await admin.unlink(...keys)
    const relay = await env.streamingRelay({ OUTRIDER_DURABILITY: 'auto' })
    await confirmed(env)
    await relay.stop()
    // The streams are gone, and their heads are known: what they had is put back.
    await admin.unlink(...keys)
    const repairing = await env.streamingRelay({ OUTRIDER_ON_GAP: 'repair' })
    await repairing.stop()
    expect(await guarded.refused()).toEqual(['config|get'])

    const known = granted('relay').filter((name) => name !== 'waitaof' || levels === LEVELS)
    expect(await guarded.called()).toEqual(known)
    const lengths = await Promise.all(keys.map((key) => admin.xlen(key)))
    expect(lengths.reduce((sum, length) => sum + length, 0)).toBe((levels.length + 1) * SUBJECTS.length)
  })
}

/** What a relay does whose user has not got the permissions of this version yet. */
export function earlierRelayRole(version: RedisVersion): void {
  test('under the line of the version before trimming and repairs publishes as before, says what it lacks, and repairs once it may', async (context) => {
    const guarded = await startGuarded(context, version, [])
    const waitAof = await hasWaitAof(guarded.admin)
    const [command = '', ...words] = EARLIER.split(/\s+/).filter((word) => waitAof || word !== '+waitaof')
    await guarded.admin.call(command, ...words)
    const env = await relayEnvOf(guarded, {})
    const relay = await env.streamingRelay({ OUTRIDER_ON_GAP: 'repair' })
    await confirmed(env)
    const ids = await env.ids('orders')
    const [line] = await relay.logged(({ msg }) => msg === 'trimming failed, retrying')
    expect(line).toMatchObject({ level: 'warn', lacks: expect.stringContaining('docs/redis-acl.md') })
    await relay.is({ role: 'active', state: 'streaming' })

    await guarded.admin.unlink('orders')
    await relay.is({ role: 'halted', reason: 'redis_noperm' })
    expect((await relay.status())?.message).toContain('xrange')
    await grant(guarded.admin, 'relay')
    await until(async () => (await env.ids('orders')).length === ids.length, { message: 'the events to be put back' })
    expect(await env.ids('orders')).toEqual(ids)
    await relay.streaming()
  })
}

/** What the documented ACL of a relay permits, on each of these versions. */
export function relayRoles(versions: readonly RedisVersion[]): void {
  describe.each(versions)('a relay on %s', (version: RedisVersion) => {
    relayWork(version, 2)

    test('is found to be permitted enough, by `outrider check` under the same line', async (context) => {
      const guarded = await startGuarded(context, version, ['relay'], { appendonly: 'yes' })
      const { database } = await relayEnvOf(guarded, {})
      for (const streams of [{}, { orders: {} }, { orders: { partitions: 4 } }]) {
        const { findings } = await runCheck(database.url, guarded.url('relay'), { streams })
        expect(findings.filter(({ server }) => server === 'redis')).toEqual([
          expect.objectContaining({ level: 'info', id: 'durability' }),
        ])
      }
      expect(await guarded.refused()).toEqual(['acl|whoami', 'config|get'])
      expect(await guarded.admin.keys('*')).toEqual([])
    })

    test('that meets a stream it may not append to holds all others up, until it may, and loses nothing', async (context) => {
      const guarded = await startGuarded(context, version, ['relay'])
      const env = await relayEnvOf(guarded, {})
      const relay = await env.streamingRelay({ OUTRIDER_DURABILITY: 'memory' })
      await env.insert('payments')
      await relay.is({ role: 'active', state: 'blocked', reason: 'redis_noperm' })
      const id = await env.insert('orders')
      expect(await guarded.admin.exists('orders', 'payments')).toBe(0)
      await guarded.admin.call('ACL', 'SETUSER', 'relay', '~payments', '~outrider:{payments}:head:*')
      await until(async () => (await guarded.admin.xlen('payments')) === 1)
      await until(async () => (await guarded.admin.xlen('orders')) === 1)
      expect(JSON.stringify(await guarded.admin.xrange('orders', '-', '+'))).toContain(id)
    })

    test('may do no more than that', async (context) => {
      const guarded = await startGuarded(context, version, ['relay'])
      await guarded.admin.xadd('orders', '1-1', 'a', 'b')
      const client = guarded.as('relay')
      await expectRefused(client, FORBIDDEN)
      await expectRefusedInScript(client, 'orders', FORBIDDEN)
      expect(await guarded.admin.xlen('orders')).toBe(1)
    })
  })
}

const FORBIDDEN = [
  // Other keys.
  'XADD payments * a b',
  'XADD ordersarchive * a b',
  'EVALSHA 0000000000000000000000000000000000000000 1 payments',
  'HSET outrider:{payments}:head:x position 1',
  'XADD outrider:{orders}:dead:billing * a b',
  'XTRIM outrider:{orders}:dead:billing MAXLEN 0',
  'HSET outrider:{orders}:retries:billing 1-1 x',
  'HMGET session:1 user',
  'XINFO STREAM payments',
  // The streams' ends.
  'DEL orders',
  'SET orders x',
  'UNLINK orders',
  'RENAME orders other',
  'EXPIRE orders 1',
  'XDEL orders 1-1',
  'XSETID orders 9-9',
  'DEL outrider:{orders}:dead:billing',
  'DEL outrider:{orders}:partitions',
  'SET outrider:{orders}:fence:billing 9',
  // What it never reads.
  'XREAD STREAMS orders 0',
  'XREADGROUP GROUP billing me STREAMS orders >',
  'XACK orders billing 1-1',
  'XGROUP CREATE orders billing 0',
  'KEYS *',
  'SCAN 0',
  // The server.
  'FLUSHALL',
  'FLUSHDB',
  'CONFIG GET requirepass',
  'CONFIG SET maxmemory 1',
  'ACL LIST',
  'ACL SETUSER relay +@all',
  'CLIENT LIST',
  'CLIENT KILL TYPE normal',
  'SCRIPT FLUSH',
  'EVAL return 0',
  'FUNCTION LIST',
  'MODULE LIST',
  'MONITOR',
  'REPLICAOF NO ONE',
  'SHUTDOWN NOSAVE',
  'SAVE',
  'SUBSCRIBE x',
  'PUBLISH x y',
]
