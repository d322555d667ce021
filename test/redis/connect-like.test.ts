import { Redis as Client, Cluster, type RedisOptions } from 'ioredis'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { OutriderError } from '../../src/base/failure.js'
import { closeRedis, connectLike, type RedisClient } from '../../src/redis/client/connect.js'
import { ConsumerGroup } from '../../src/redis/streams/consumer-group.js'
import { freePort, needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { own } from '../support/own.js'

/** A client as an application has it: it prefixes keys, queues, and comes back by itself. */
function given(options: RedisOptions): Client {
  const client = new Client({
    host: '127.0.0.1',
    lazyConnect: true,
    keyPrefix: 'shop:',
    retryStrategy: () => 10,
    reconnectOnError: () => 2,
    maxRetriesPerRequest: null,
    enableOfflineQueue: true,
    commandTimeout: 50,
    connectionName: 'shop',
    ...options,
  } as RedisOptions & { replyMapping?: never })
  client.on('error', () => {})
  onTestFinished(() => client.disconnect())
  return client
}

async function like(other: RedisClient): Promise<RedisClient> {
  const client = await connectLike(other, 'outrider test')
  onTestFinished(() => closeRedis(client))
  return client
}

describe('like a client of one server', () => {
  it('is the same user in the same database, under a name of its own and without the prefix', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis({ settings: { requirepass: 'right' } }))
    const other = given({ port: redis.port, password: 'right', db: 3, commandTimeout: 5_000 })
    const client = await like(other)
    await client.set('key', 'of outrider')
    await other.set('key', 'of the shop')
    expect(await client.client('INFO')).toMatch(/ name=outrider-test .*db=3 /)
    expect((await client.keys('*')).sort()).toEqual(['key', 'shop:key'])
  })

  it('logs in with the name of a user, also from a URL', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis({ settings: { user: 'worker on >right ~* &* +@all' } }))
    const other = new Client(`redis://worker:right@127.0.0.1:${redis.port}/2`, { lazyConnect: true })
    const client = await like(other)
    expect([await client.acl('WHOAMI'), await client.client('INFO')]).toEqual([
      'worker',
      expect.stringMatching(/ db=2 /),
    ])
  })

  it('neither uses nor closes what it was made like', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis())
    const idle = given({ port: redis.port })
    closeRedis(await like(idle))
    expect(idle.status).toBe('wait')

    const busy = given({ port: redis.port, commandTimeout: 5_000 })
    const before = await busy.client('ID')
    const options = { ...busy.options }
    const client = await like(busy)
    expect(await client.client('ID')).not.toBe(before)
    closeRedis(client)
    expect([busy.status, await busy.client('ID')]).toEqual(['ready', before])
    expect(busy.options).toEqual(options)
    expect(busy.listenerCount('error')).toBe(1)
  })

  it('never connects again or sends again by itself, whatever the other one does', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis())
    const client = await like(given({ port: redis.port }))
    const ended = new Promise((resolve) => client.once('end', resolve))
    // The timeout of the other one would have ended this, too.
    const rejected = expect(client.blpop('nothing', 0)).rejects.toThrow('Connection is closed.')
    await until(async () => /cmd=blpop/.test(String(await redis.command('CLIENT', 'LIST'))))
    await redis.kill('SIGKILL')
    await rejected
    await ended
    await redis.start()
    await expect(client.ping()).rejects.toThrow('Connection is closed.')
    expect(client.status).toBe('end')
  })

  it('gets an error reply as it is, and sends nothing twice', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis())
    const client = await like(given({ port: redis.port }))
    await client.set('text', 'x')
    await expect(client.incr('text')).rejects.toThrow('not an integer')
    await expect(
      client.eval("redis.call('INCR', KEYS[1]) return redis.error_reply('READONLY no')", 1, 'n'),
    ).rejects.toThrow('READONLY')
    expect(await redis.command('GET', 'n')).toBe('1')
  })

  it('has numbers as numbers, whatever the other one makes of them', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis())
    const client = await like(given({ port: redis.port, stringNumbers: true, enableAutoPipelining: true }))
    const group = new ConsumerGroup('things', 'billing', 'one')
    await group.create(client, '0')
    const id = (await client.xadd('things', '*', 'a', 'b')) as string
    await client.xreadgroup('GROUP', 'billing', 'one', 'COUNT', 1, 'STREAMS', 'things', '>')
    expect(await group.startDelivery(client, id)).toBe(true)
    expect(await group.state(client)).toMatchObject({ pending: 1, lag: 0 })
  })

  it('has replies in the same shapes where the other one speaks RESP3', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis())
    const options = { port: redis.port, protocol: 3, replyMapping: 'resp3' } as unknown as RedisOptions
    const client = await like(given(options))
    await client.hset('hash', 'a', 'b')
    expect(await client.call('HGETALL', 'hash')).toEqual(['a', 'b'])
  })

  it('is refused with one line that says what to do, and no password in it', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis({ settings: { requirepass: 'right' } }))
    const nobody = await freePort()
    for (const [options, text] of [
      [
        { port: redis.port, password: 'hunter2' },
        `Redis at 127.0.0.1:${redis.port} refused the user name or the password`,
      ],
      [{ port: redis.port }, 'requires a password (NOAUTH)'],
      [{ port: redis.port, password: 'right', db: 99 }, 'has no database 99'],
      [{ port: nobody, password: 'hunter2' }, `Redis at 127.0.0.1:${nobody} refused the connection`],
    ] as const) {
      const failure = (await connectLike(given(options), 'test').catch((error: unknown) => error)) as OutriderError
      expect(failure.name).toBe('OutriderError')
      expect(failure.message).toContain(text)
      expect(failure.message).not.toMatch(/hunter2|\n/)
    }
  })

  it('gives up a server that does not answer, after the time that the other one gives it', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis())
    await redis.freeze()
    onTestFinished(() => redis.thaw())
    const other = given({ port: redis.port, connectTimeout: 200 })
    await expect(connectLike(other, 'test')).rejects.toThrow('did not answer within 200 ms')
  })
})

describe('like a client of a cluster', () => {
  it('is a client of that cluster: with its password, without its prefix, and it never comes back by itself', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(
      await startRedis({
        settings: { 'cluster-enabled': 'yes', 'cluster-announce-ip': '127.0.0.1', requirepass: 'right' },
      }),
    )
    await redis.command('CLUSTER', 'ADDSLOTSRANGE', '0', '16383')
    await until(async () => String(await redis.command('CLUSTER', 'INFO')).includes('cluster_state:ok'))
    const nodes = [{ host: '127.0.0.1', port: redis.port }]
    const other = new Cluster(nodes, {
      lazyConnect: true,
      keyPrefix: 'shop:',
      scaleReads: 'all',
      redisOptions: { password: 'right', stringNumbers: true, commandTimeout: 50 },
    })
    onTestFinished(() => other.disconnect())
    const client = await like(other)
    expect(other.status).toBe('wait')
    await client.set('key', 'of outrider')
    // Its time for a command is short, to show that the other one does not have it: here it may take longer.
    await until(() => other.set('key', 'of the shop'))
    expect((await Promise.all((client as Cluster).nodes().map((node) => node.keys('*')))).flat().sort()).toEqual([
      'key',
      'shop:key',
    ])
    expect(await client.strlen('key')).toBe(11)

    const ended = new Promise((resolve) => client.once('end', resolve))
    const rejected = expect(client.blpop('nothing', 0)).rejects.toThrow('Connection is closed.')
    await until(async () => /cmd=blpop/.test(String(await redis.command('CLIENT', 'LIST'))))
    await redis.kill('SIGKILL')
    await rejected
    await ended
  })
})
