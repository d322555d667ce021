import { chownSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Cluster } from 'ioredis'
import { afterAll, describe, expect, it, onTestFinished } from 'vitest'
import type { ExitCode, OutriderError } from '../../src/base/failure.js'
import type { RedisConfig } from '../../src/config/schema.js'
import { closeRedis, connectRedis } from '../../src/redis/client/connect.js'
import {
  freePort,
  freshRedis,
  needsProcess,
  startRedis,
  startRedisCluster,
  until,
} from '../../testkit/services/index.js'
import { createCertificate } from '../support/certificate.js'
import { startSentinel } from '../support/sentinel.js'

const config = (url: string, more: Partial<RedisConfig> = {}): RedisConfig => ({ url, connectTimeout: 5_000, ...more })

async function connected(given: RedisConfig) {
  const client = await connectRedis(given, 'outrider test')
  onTestFinished(() => closeRedis(client))
  return client
}

async function refused(given: RedisConfig, exitCode: ExitCode, ...texts: string[]): Promise<OutriderError> {
  const failure = await connectRedis(given, 'test').then(
    (client) => {
      closeRedis(client)
      throw new Error('Expected an OutriderError, found a connection.')
    },
    (error: OutriderError) => error,
  )
  expect(failure.name).toBe('OutriderError')
  for (const text of texts) expect(failure.message).toContain(text)
  expect(failure.message).not.toContain('hunter2')
  expect(failure.message).not.toContain('\n')
  expect(failure.exitCode, failure.message).toBe(exitCode)
  expect(failure.cause).toBeInstanceOf(Error)
  return failure
}

const folder = mkdtempSync(join(tmpdir(), 'outrider-connect-'))
afterAll(() => rmSync(folder, { recursive: true }))
let count = 0
function written(text: string): string {
  const file = join(folder, `${count++}`)
  writeFileSync(file, text)
  return file
}

describe('connected', () => {
  it('answers, under its name', async () => {
    const redis = await freshRedis()
    onTestFinished(() => redis.remove())
    const client = await connected(config(redis.url))
    expect(await client.client('GETNAME')).toBe('outrider-test')
  })

  it('uses the database of the URL', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await startRedis()
    onTestFinished(() => redis.remove())
    const client = await connected(config(`${redis.url}/3`))
    expect(await client.client('INFO')).toMatch(/ db=3 /)
  })

  it('rejects what was in flight when the server dies, sends nothing again and never comes back by itself', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await startRedis()
    onTestFinished(() => redis.remove())
    const client = await connected(config(redis.url))
    const ended = new Promise((resolve) => client.once('end', resolve))
    const rejected = expect(client.blpop('nothing', 0)).rejects.toThrow('Connection is closed.')
    await redis.kill('SIGKILL')
    await rejected
    await ended
    await redis.start()
    await expect(client.ping()).rejects.toThrow('Connection is closed.')
    expect(client.status).toBe('end')
  })

  it('is cut at once, although the server does not answer', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await startRedis()
    onTestFinished(() => redis.remove())
    const client = await connected(config(redis.url))
    await redis.freeze()
    const waiting = client.incr('n')
    const began = performance.now()
    closeRedis(client)
    await expect(waiting).rejects.toThrow('Connection is closed.')
    expect(performance.now() - began).toBeLessThan(2_000)
    await redis.thaw()
  })
})

describe('refused, with one line that says what to do', () => {
  it('no one listens', async () => {
    const port = await freePort()
    await refused(
      config(`redis://:hunter2@127.0.0.1:${port}`),
      3,
      `Redis at 127.0.0.1:${port} refused the connection`,
      'Check that it is running',
    )
  })

  it('a name that does not exist', async () => {
    await refused(config('redis://:hunter2@nowhere.invalid'), 3, 'Redis at nowhere.invalid:6379 was not found')
  })

  it('a frozen server that takes the connection and says nothing', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await startRedis()
    onTestFinished(() => redis.remove())
    await redis.freeze()
    await refused(config(redis.url, { connectTimeout: 200 }), 3, 'did not answer within 200 ms')
    await redis.thaw()
  })

  it('something else than Redis', async () => {
    const server = createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void server.close())
    const { port } = server.address() as { port: number }
    await refused(config(`redis://:hunter2@127.0.0.1:${port}`), 3, 'Check that host and port are those of Redis')
  })

  it('a wrong password, none, and one from a file that is read again', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await startRedis({ settings: { requirepass: 'right' } })
    onTestFinished(() => redis.remove())
    const bare = `redis://127.0.0.1:${redis.port}`
    await refused(config(bare), 1, 'requires a password (NOAUTH)')
    await refused(config(bare.replace('//', '//:hunter2@')), 1, 'refused the user name or the password (WRONGPASS)')
    await refused(config(bare.replace('//', '//nobody:hunter2@')), 1, 'WRONGPASS')
    const file = written('hunter2\n')
    const given = config(bare, { password: { file } })
    await refused(given, 1, 'WRONGPASS')
    writeFileSync(file, 'right\n')
    await connected(given)
  })

  it('works for a user who may do little', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await startRedis({ settings: { user: 'little on >right ~* &* -@all +xadd' } })
    onTestFinished(() => redis.remove())
    const client = await connected(config(`redis://little:right@127.0.0.1:${redis.port}`))
    expect(await client.xadd('s', '*', 'a', 'b')).toBeTruthy()
  })

  it('a database that does not exist: commands must not go to another', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await startRedis({ settings: { databases: '2' } })
    onTestFinished(() => redis.remove())
    await refused(config(`${redis.url}/7`), 1, 'has no database 7')
  })

  it('a server that is loading its data', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await startRedis({ settings: { 'enable-debug-command': 'yes' } })
    onTestFinished(() => redis.remove())
    const client = redis.client()
    onTestFinished(() => client.disconnect())
    await client.call('DEBUG', 'POPULATE', '20000')
    await client.call('SAVE')
    await client.call('CONFIG', 'SET', 'key-load-delay', '2000', 'loading-process-events-interval-bytes', '1024')
    const reload = client.call('DEBUG', 'RELOAD', 'NOSAVE').catch(() => {})
    await expect
      .poll(() => connectRedis(config(redis.url), 'test').then(closeRedis, (error: OutriderError) => error.message), {
        timeout: 20_000,
      })
      .toContain('is loading its data (LOADING)')
    await redis.kill('SIGKILL')
    await reload
  })

  it('a replica that has lost its primary', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await startRedis({ settings: { 'replica-serve-stale-data': 'no', replicaof: '127.0.0.1 1' } })
    onTestFinished(() => redis.remove())
    const { message } = await refused(config(redis.url), 3, 'a replica that has lost its primary (MASTERDOWN)')
    expect(message).not.toContain('TLS')
  })

  it('a server that is no cluster, and sentinels that are none', async () => {
    const redis = await freshRedis()
    onTestFinished(() => redis.remove())
    const host = new URL(redis.url).host
    await refused(config(`redis+cluster://:@${host}`), 1, `The Redis cluster at ${host} is no cluster`)
    await refused(config(`redis+sentinel://${host}/main`), 3, `Redis "main" behind the sentinels at ${host}`)
    const port = await freePort()
    await refused(config(`redis+cluster://127.0.0.1:${port}`), 3, 'refused the connection')
    await refused(config(`redis+sentinel://127.0.0.1:${port}/main`), 3, 'refused the connection')
  })
})

describe('several servers', () => {
  it('a cluster, of which one node is named', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await startRedis({
      settings: { 'cluster-enabled': 'yes', 'cluster-announce-ip': '127.0.0.1', requirepass: 'right' },
    })
    onTestFinished(() => redis.remove())
    const admin = redis.client()
    await admin.call('CLUSTER', 'ADDSLOTSRANGE', '0', '16383')
    const unused = await freePort()
    const url = (password: string) => `redis+cluster://:${password}@127.0.0.1:${redis.port}?node=127.0.0.1:${unused}`
    // A cluster that is not up yet answers as well; what it says to a command is for the caller to judge.
    await connected(config(url('right')))
    await until(async () => String(await admin.call('CLUSTER', 'INFO')).includes('cluster_state:ok'))
    admin.disconnect()
    const client = await connected(config(url('right')))
    expect(await client.set('a', 'b')).toBe('OK')
    expect(await client.get('a')).toBe('b')
    await refused(config(url('hunter2')), 1, 'WRONGPASS')

    const ended = new Promise((resolve) => client.once('end', resolve))
    const rejected = expect(client.blpop('nothing', 0)).rejects.toThrow('Connection is closed.')
    await redis.kill('SIGKILL')
    await rejected
    await ended
  })

  it('sentinels, that know the master', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await startRedis({ settings: { requirepass: 'right' } })
    onTestFinished(() => redis.remove())
    const port = await startSentinel(redis.port)
    const unused = await freePort()
    const url = (name: string, password = 'right') =>
      `redis+sentinel://:${password}@127.0.0.1:${unused}/${name}?node=127.0.0.1:${port}`
    const client = await connected(config(url('main/1')))
    expect(await client.client('INFO')).toMatch(/ db=1 /)
    await refused(config(url('other')), 3, 'Redis "other" behind the sentinels')
    await refused(config(url('main', 'hunter2')), 1, 'WRONGPASS')
  })
})

it('checks certificates, always', async (context) => {
  needsProcess(context, ['redis'])
  const redis = await startRedis()
  onTestFinished(() => redis.remove())
  const authority = createCertificate()
  const { cert, key } = createCertificate({ names: ['localhost'], signedBy: authority })
  const { uid, gid } = statSync(redis.dataDir)
  for (const [name, text] of Object.entries({ 'server.crt': cert, 'server.key': key })) {
    const file = join(redis.dataDir, name)
    writeFileSync(file, text, { mode: 0o600 })
    chownSync(file, uid, gid)
  }
  const client = redis.client()
  // The same port changes from plain text to TLS; this connection stays.
  await client.call('CONFIG', 'SET', 'port', '0')
  const files = ['tls-cert-file', join(redis.dataDir, 'server.crt'), 'tls-key-file', join(redis.dataDir, 'server.key')]
  await client.call('CONFIG', 'SET', ...files, 'tls-auth-clients', 'no', 'tls-port', String(redis.port))
  client.disconnect()

  const ca = written(authority.cert)
  const url = (host: string) => `rediss://${host}:${redis.port}`
  expect(await (await connected(config(url('localhost'), { tls: { ca } }))).ping()).toBe('PONG')
  await connected(config(url('127.0.0.1'), { tls: { ca, serverName: 'localhost' } }))
  await refused(config(url('localhost')), 3, 'not signed by a CA that is trusted')
  await refused(config(url('127.0.0.1'), { tls: { ca } }), 3, 'made out to another name')
  await refused(config(url('localhost').replace('rediss', 'redis')), 3, 'whether it requires TLS')
})

it('once a cluster is connected, each of its nodes takes commands', async (context) => {
  needsProcess(context, ['redis'])
  const cluster = await startRedisCluster()
  onTestFinished(() => cluster.remove())
  // Which node answers first differs from one time to the next.
  for (let time = 0; time < 30; time++) {
    const client = await connectRedis(config(cluster.url), 'test')
    const answers = await Promise.allSettled(['orders', 'users', 'payments:2', 'a', 'b'].map((key) => client.get(key)))
    closeRedis(client)
    expect(answers).toEqual(answers.map(() => ({ status: 'fulfilled', value: null })))
  }
})

it('a cluster that is closed while it asks another node rejects what was in flight, and nothing else', async (context) => {
  needsProcess(context, ['redis'])
  const cluster = await startRedisCluster({ masters: 2 })
  onTestFinished(() => cluster.remove())
  const to = cluster.masterOf('users')
  await cluster.client.set('orders', '1')
  await cluster.beginMove('orders', to)
  await cluster.moveKeys('orders', to)
  const client = (await connected(config(cluster.url))) as Cluster
  expect(await client.get('orders')).toBe('1')

  // Vitest listens as well, and would only say that something failed.
  const listeners = process.rawListeners('unhandledRejection') as NodeJS.UnhandledRejectionListener[]
  const unhandled: unknown[] = []
  process.removeAllListeners('unhandledRejection').on('unhandledRejection', (error) => unhandled.push(error))
  onTestFinished(() => {
    process.removeAllListeners('unhandledRejection')
    for (const listener of listeners) process.on('unhandledRejection', listener)
  })
  await to.freeze()
  const asked = new Promise<void>((resolve) => {
    for (const node of client.nodes('master')) {
      if (node.options.port !== to.port) continue
      const sendCommand = node.sendCommand.bind(node)
      node.sendCommand = (...args) => {
        // After this turn, the command itself is sent, too.
        if (args[0].name === 'asking') setImmediate(resolve)
        return sendCommand(...args)
      }
    }
  })
  const reply = client.get('orders').catch((error: Error) => error.message)
  await asked
  closeRedis(client)
  expect(await reply).toMatch(/closed/)
  await new Promise(setImmediate)
  expect(unhandled).toEqual([])
})
