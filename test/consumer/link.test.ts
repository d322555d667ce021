import type { Socket } from 'node:net'
import type { Redis as Client } from 'ioredis'
import { beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { isMissingGroup, ReconnectingClient, StoppedError } from '../../src/consumer/redis/reconnecting-client.js'
import { connectRedis, type RedisClient } from '../../src/redis/client/connect.js'
import { freePort, needsProcess, type Redis, startRedis, until } from '../../testkit/services/index.js'
import { own } from '../support/own.js'

interface Line {
  level: string
  text: string
  reason?: string
}

let server: Redis
let admin: Client

beforeEach(async (context) => {
  needsProcess(context, ['redis'])
  server = own(await startRedis())
  admin = server.client({ retryStrategy: () => 20, maxRetriesPerRequest: null })
  onTestFinished(() => admin.disconnect())
})

/** A link, and what it says. */
function linkTo(url = server.url, before = async () => {}) {
  const lines: Line[] = []
  /** When it tried to connect. */
  const attempts: number[] = []
  const say = (level: string) => (about: unknown, text?: string) => {
    lines.push({ level, text: text ?? '', ...(about as object) })
  }
  const log = { debug: say('debug'), info: say('info'), warn: say('warn'), error: say('error') }
  const connect = async () => {
    attempts.push(performance.now())
    await before()
    return connectRedis({ url, connectTimeout: 5_000 }, 'link')
  }
  const link = new ReconnectingClient(connect, log)
  onTestFinished(() => link.close())
  const warned = () => lines.filter(({ level }) => level === 'warn').map(({ reason }) => reason)
  return { link, lines, warned, attempts }
}

const url = (user: string) => server.url.replace('//', `//${user}:secret@`)

const pids = async (): Promise<string[]> =>
  [...String(await admin.client('LIST')).matchAll(/^id=(\d+) .* name=link /gm)].map(([, id]) => id as string)

/** What becomes of a promise, without waiting for it. */
function watch<T>(promise: Promise<T>): { outcome?: T | Error } {
  const seen: { outcome?: T | Error } = {}
  promise.then(
    (value) => (seen.outcome = value),
    (error: Error) => (seen.outcome = error),
  )
  return seen
}

describe('asks again', () => {
  test('what was in flight when the connection was lost', async () => {
    const { link, lines, warned } = linkTo()
    await link.open()
    const [id] = await pids()
    let asked = 0
    const popping = link.request((client) => {
      asked++
      return client.blpop('list', 0)
    })
    await until(async () => String(await admin.client('LIST')).includes('cmd=blpop'))
    await admin.client('KILL', 'ID', Number(id))
    await until(() => asked === 2)
    await admin.rpush('list', 'x')
    expect(await popping).toEqual(['list', 'x'])
    expect([warned(), lines.at(-1)?.text]).toEqual([['redis_unreachable'], 'connected to Redis again'])
    expect(await pids()).toHaveLength(1)
  })

  test('through a server that is gone for a while, all who ask over one connection', async () => {
    const { link, warned } = linkTo()
    await link.open()
    await server.kill('SIGKILL')
    const asking = Array.from({ length: 20 }, (_, n) => link.request((client) => client.incrby('sum', n)))
    await until(() => warned().length > 0)
    await server.start()
    await Promise.all(asking)
    expect([await admin.get('sum'), (await pids()).length, warned()]).toEqual(['190', 1, ['redis_unreachable']])
  })

  test('all of many that were in flight, and closes their connection once', async () => {
    const { link } = linkTo()
    await link.open()
    const [id] = await pids()
    const { stream } = (await link.client()) as RedisClient & { stream: Socket }
    const before = stream.listenerCount('close')
    const asking = Array.from({ length: 20 }, () => link.request((client) => client.blpop('list', 0)))
    await until(async () => String(await admin.client('LIST')).includes('cmd=blpop'))
    await admin.client('KILL', 'ID', Number(id))
    await admin.rpush('list', ...asking.map(String))
    await Promise.all(asking)
    expect(stream.listenerCount('close')).toBeLessThanOrEqual(before + 1)
  })

  test('a server whose memory is full, over the same connection', async () => {
    const { link, warned } = linkTo()
    await link.open()
    const before = await pids()
    await server.config('maxmemory', '1')
    const asking = watch(link.request((client) => client.set('a', 'b')))
    await until(() => warned().length > 0)
    expect(asking).toEqual({})
    await server.config('maxmemory', '0')
    await until(() => asking.outcome)
    expect([asking.outcome, warned(), await pids()]).toEqual(['OK', ['redis_oom'], before])
  })

  test('a server that does not permit it yet, over the same connection', async () => {
    await admin.call('ACL', 'SETUSER', 'worker', 'on', '>secret', '~*', '+@all', '-set')
    const { link, warned } = linkTo(url('worker'))
    await link.open()
    const before = await pids()
    const asking = watch(link.request((client) => client.set('a', 'b')))
    await until(() => warned().length > 0)
    // Whoever asks for something else is answered meanwhile.
    expect(await link.request((client) => client.get('a'))).toBeNull()
    expect(asking).toEqual({})
    await admin.call('ACL', 'SETUSER', 'worker', '+set')
    await until(() => asking.outcome)
    expect([asking.outcome, new Set(warned()), await pids()]).toEqual(['OK', new Set(['redis_noperm']), before])
  })

  test('a replica until it is promoted, and over a new connection each time: its name may lead elsewhere by then', async () => {
    const replica = own(await startRedis({ replicaOf: server }))
    const { link, warned, attempts } = linkTo(replica.url)
    await link.open()
    const asking = watch(link.request((client) => client.set('a', 'b')))
    await until(() => attempts.length > 2)
    expect(asking).toEqual({})
    await replica.command('REPLICAOF', 'NO', 'ONE')
    await until(() => asking.outcome)
    expect([asking.outcome, warned()[0]]).toEqual(['OK', 'redis_readonly'])
  })
})

test('a group or a stream that is missing rejects at once, and the connection stays', async () => {
  const { link, lines } = linkTo()
  await link.open()
  const before = await pids()
  const missing = await link.request((client) => client.xpending('nothing', 'group')).catch((error: Error) => error)
  expect(isMissingGroup(missing)).toBe(true)
  const noStream = await link.request((client) => client.xgroup('CREATE', 'nothing', 'g', '0')).catch((e: Error) => e)
  expect(isMissingGroup(noStream)).toBe(true)
  expect([await pids(), lines]).toEqual([before, []])
})

test('a late error of a connection that was given up leaves the new one', async () => {
  const { link } = linkTo()
  await link.open()
  const old = await link.client()
  link.fault(old, new Error('Connection is closed.'))
  const fresh = await link.client()
  expect(fresh).not.toBe(old)
  link.fault(old, new Error('Connection is closed.'))
  expect(await link.client()).toBe(fresh)
  expect(await fresh.ping()).toBe('PONG')
})

test('the first connection is not waited for', async () => {
  const { link } = linkTo(`redis://127.0.0.1:${await freePort()}`)
  await expect(link.open()).rejects.toThrow('refused the connection')
})

describe('closed', () => {
  test('rejects whoever waits for a connection, for an answer or for the next attempt, and whoever comes later', async () => {
    await admin.call('ACL', 'SETUSER', 'worker', 'on', '>secret', '~*', '+@all', '-set')
    const { link, warned } = linkTo(url('worker'))
    await link.open()
    const refused = watch(link.request((client) => client.set('a', 'b')))
    await until(() => warned().length > 0)
    const waiting = watch(link.request((client) => client.blpop('list', 0)))
    await until(async () => String(await admin.client('LIST')).includes('cmd=blpop'))
    link.close()
    await until(() => refused.outcome && waiting.outcome)
    for (const { outcome } of [refused, waiting]) expect(outcome).toBeInstanceOf(StoppedError)
    for (const late of [link.request((client) => client.ping()), link.client()]) {
      await expect(late).rejects.toThrow(StoppedError)
    }
    await until(async () => (await pids()).length === 0)
  })

  test('rejects whoever waits for a server that is gone, and connects no more', async () => {
    const { link, warned } = linkTo()
    await link.open()
    await server.kill('SIGKILL')
    const asking = Array.from({ length: 3 }, () => watch(link.request((client) => client.ping())))
    await until(() => warned().length > 0)
    link.close()
    await until(() => asking.every(({ outcome }) => outcome))
    for (const { outcome } of asking) expect(outcome).toBeInstanceOf(StoppedError)
    await server.start()
    expect(await pids()).toEqual([])
  })

  test('while it connects, leaves no connection behind', async () => {
    let go = () => {}
    let gate = Promise.resolve()
    const { link, attempts } = linkTo(server.url, () => gate)
    await link.open()
    gate = new Promise((resolve) => {
      go = resolve
    })
    link.fault(await link.client(), new Error('Connection is closed.'))
    const asking = watch(link.request((client) => client.ping()))
    await until(() => attempts.length === 2)
    link.close()
    go()
    await until(() => asking.outcome)
    expect(asking.outcome).toBeInstanceOf(StoppedError)
    await until(async () => (await pids()).length === 0)
    expect(attempts).toHaveLength(2)
  })
})

describe('says what is wrong', () => {
  const later = (milliseconds: number) => {
    const now = performance.now.bind(performance)
    vi.spyOn(performance, 'now').mockImplementation(() => now() + milliseconds)
    onTestFinished(() => void vi.restoreAllMocks())
  }

  test('once, then now and then while it lasts, and again when it recurs', async () => {
    const { link, warned, lines, attempts } = linkTo()
    await link.open()
    await server.kill('SIGKILL')
    const asking = link.request((client) => client.ping())
    await until(() => warned().length === 1)
    later(15_000)
    const before = attempts.length
    await until(() => attempts.length > before + 2)
    expect(warned()).toHaveLength(1)
    vi.restoreAllMocks()
    later(31_000)
    await until(() => warned().length === 2)
    vi.restoreAllMocks()
    await server.start()
    await asking
    expect(lines.at(-1)).toMatchObject({ level: 'info', text: 'connected to Redis again' })
    await server.kill('SIGKILL')
    const again = watch(link.request((client) => client.ping()))
    await until(() => warned().length === 3)
    link.close()
    await until(() => again.outcome)
  })

  test('that it is connected again, where the connection ended while nothing was asked', async () => {
    const { link, lines } = linkTo()
    await link.open()
    const client = await link.client()
    const [id] = await pids()
    await admin.client('KILL', 'ID', Number(id))
    await until(() => client.status === 'end')
    expect(await link.request((each) => each.ping())).toBe('PONG')
    expect(lines).toEqual([{ level: 'info', text: 'connected to Redis again' }])
  })

  test('once where a server takes connections and refuses what is asked', async () => {
    const replica = own(await startRedis({ replicaOf: server }))
    const { link, lines, warned, attempts } = linkTo(replica.url)
    await link.open()
    const asking = watch(link.request((client) => client.set('a', 'b')))
    await until(() => attempts.length > 4)
    expect(asking).toEqual({})
    expect([warned(), lines.length]).toEqual([['redis_readonly'], 1])
  })
})
