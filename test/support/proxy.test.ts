import { connect } from 'node:net'
import type { Redis as Client } from 'ioredis'
import pg from 'pg'
import { describe, expect, it, onTestFinished } from 'vitest'
import {
  createDatabase,
  needsProcess,
  type Redis,
  redisClient,
  startProxy,
  startRedis,
  type TcpProxy,
  until,
} from '../../testkit/services/index.js'
import { own } from './own.js'

describe('the proxy', () => {
  /** A proxy before a Redis, as its two ends. */
  async function between(): Promise<[TcpProxy, Redis, Client]> {
    const redis = own(await startRedis())
    const proxy = await startProxy(redis.port)
    onTestFinished(() => proxy.close())
    const client = redisClient(proxy.url(redis.url))
    onTestFinished(() => client.disconnect())
    return [proxy, redis, client]
  }

  it('passes everything on unchanged, also in slices of 1 to 7 bytes', async (context) => {
    needsProcess(context, ['redis'])
    const [proxy, , client] = await between()
    const value = Array.from({ length: 5000 }, (_, n) => `${n} æøå`).join()
    await client.set('key', value)
    proxy.slice()
    const socket = connect(proxy.port, '127.0.0.1', () => socket.write('GET key\r\n'))
    const chunks: Buffer[] = []
    socket.on('data', (chunk) => chunks.push(chunk))
    const reply = Buffer.from(`$${Buffer.byteLength(value)}\r\n${value}\r\n`)
    await until(() => Buffer.concat(chunks).equals(reply), { message: () => `the reply, got ${chunks.length} pieces` })
    expect(chunks.length).toBeGreaterThan(reply.length / 100)
    expect(proxy.passed('down')).toBeGreaterThan(reply.length)
    expect(proxy.connections).toBe(2)
    socket.destroy()
  })

  it('holds back one direction: the command is done, its reply comes later', async (context) => {
    needsProcess(context, ['redis'])
    const [proxy, redis, client] = await between()
    await client.ping()
    proxy.pause('down')
    let answered = false
    const answer = client.set('key', 'value').then(() => {
      answered = true
    })
    await until(async () => (await redis.command('GET', 'key')) === 'value', { message: 'the command to arrive' })
    await expect(until(() => answered, { timeout: 200 })).rejects.toThrow('within 200 ms')
    proxy.resume('down')
    await answer
  })

  it('swallows what is sent, and cuts so that the client sees a reset', async (context) => {
    needsProcess(context, ['redis'])
    const [proxy, redis, client] = await between()
    await client.ping()
    proxy.swallow('up')
    const lost = expect(client.set('key', 'value')).rejects.toThrow()
    await expect(until(async () => redis.command('GET', 'key'), { timeout: 200 })).rejects.toThrow('within 200 ms')
    proxy.cut()
    await lost
    await until(() => proxy.connections === 0, { message: 'both sides of the connection to be closed' })
  })

  it('cuts in the middle of a reply', async (context) => {
    needsProcess(context, ['redis'])
    const [proxy, redis, client] = await between()
    await client.ping()
    proxy.cutAfter(3, 'down')
    const before = proxy.passed('down')
    await expect(client.set('key', 'value')).rejects.toThrow()
    expect(proxy.passed('down') - before).toBe(3)
    expect(await redis.command('GET', 'key')).toBe('value')
  })

  it('lets through no more than so many bytes a second', async (context) => {
    needsProcess(context, ['redis'])
    const [proxy, , client] = await between()
    await client.set('key', 'x'.repeat(10_000))
    proxy.limit(20_000, 'down')
    const start = performance.now()
    await client.get('key')
    expect(performance.now() - start).toBeGreaterThan(450)
  })

  it('refuses new connections while the old ones work on', async (context) => {
    needsProcess(context, ['redis'])
    const [proxy, redis, client] = await between()
    await client.ping()
    proxy.refuse()
    const other = redisClient(proxy.url(redis.url))
    await expect(other.connect()).rejects.toMatchObject({ message: expect.stringContaining('closed') })
    expect(await client.ping()).toBe('PONG')
    await proxy.accept()
    await other.connect()
    other.disconnect()
  })

  it('carries Postgres, whose URL it rewrites', async () => {
    const database = await createDatabase()
    const proxy = await startProxy(Number(new URL(database.url).port))
    proxy.slice()
    const client = new pg.Client({ connectionString: proxy.url(database.url) })
    await client.connect()
    expect((await client.query('select current_database() as name')).rows).toEqual([{ name: database.name }])
    await client.end()
    await until(() => proxy.connections === 0, { message: 'the end to reach both sides' })
    await proxy.close()
    await database.drop()
  })
})
