import { beforeEach, expect, it, onTestFinished } from 'vitest'
import { headKey } from '../../src/event/names.js'
import { ZERO_POSITION } from '../../src/event/position.js'
import { closeRedis, connectRedis, type RedisClient } from '../../src/redis/client/connect.js'
import { loadAppend } from '../../src/redis/streams/append.js'
import { DurabilityBarrier } from '../../src/relay/confirm/durability-barrier.js'
import { needsProcess, startProxy, startRedis, until } from '../../testkit/services/index.js'
import { TcpProxy } from '../../testkit/services/proxy.js'
import { at, call, events, LINEAGE } from '../support/events.js'

beforeEach((context) => needsProcess(context, ['redis']))

it('an old primary that keeps its connections is refused once: the next round is on a new connection', async () => {
  const old = await startRedis()
  onTestFinished(() => old.remove())
  const heir = await startRedis({ replicaOf: old })
  onTestFinished(() => heir.remove())
  // What a service's name is elsewhere.
  const before = await startProxy(old.port)
  onTestFinished(() => before.close())
  const connect = () => connectRedis({ url: before.url(old.url), connectTimeout: 5_000 }, 'barrier')
  const barrier = new DurabilityBarrier(connect, LINEAGE, 'one')
  onTestFinished(() => barrier.close())

  const client = await connect()
  await loadAppend(client)
  const { head } = await call(client, { key: 'orders', session: 'one', previous: ZERO_POSITION, events: events(1, 3) })
  closeRedis(client)
  const heads = new Map([['orders', head]])
  await barrier.reach('replicated', heads)

  before.refuse()
  const after = new TcpProxy(heir.port, before.port)
  onTestFinished(() => after.close())
  await after.accept()
  await heir.command('REPLICAOF', 'NO', 'ONE')
  await old.command('REPLICAOF', '127.0.0.1', String(heir.port))
  await expect(barrier.reach('memory', heads)).rejects.toThrow(/READONLY/)
  expect(before.connections).toBeGreaterThan(0)
  await barrier.reach('memory', heads)
  expect(await heir.command('HGET', headKey('orders', LINEAGE), 'durable')).toBe(at(3))
  await until(() => before.connections === 0, { message: 'the old connection to be given up' })
})

it('a level that is not met keeps its connection', async () => {
  const redis = await startRedis()
  onTestFinished(() => redis.remove())
  let connections = 0
  const barrier = new DurabilityBarrier(
    () => {
      connections += 1
      return connectRedis({ url: redis.url, connectTimeout: 5_000 }, 'barrier')
    },
    LINEAGE,
    'one',
  )
  onTestFinished(() => barrier.close())
  for (let n = 0; n < 3; n++) await expect(barrier.try('replicated')).rejects.toThrow('Expected a replica')
  expect(connections).toBe(1)
})

it('a connection that the server closed between two rounds is replaced without an error', async () => {
  const redis = await startRedis()
  onTestFinished(() => redis.remove())
  const clients: RedisClient[] = []
  const connect = async () => {
    const client = await connectRedis({ url: redis.url, connectTimeout: 5_000 }, 'barrier')
    clients.push(client)
    return client
  }
  const barrier = new DurabilityBarrier(connect, LINEAGE, 'one')
  onTestFinished(() => barrier.close())
  await barrier.try('memory')
  await redis.command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await until(() => clients[0]?.status === 'end', { message: 'the connection to be closed' })
  await barrier.try('memory')
  expect(clients).toHaveLength(2)
})
