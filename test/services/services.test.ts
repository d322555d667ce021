import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect } from 'node:net'
import type { Redis as Client } from 'ioredis'
import pg from 'pg'
import { afterEach, describe, expect, it, vi } from 'vitest'
import {
  createDatabase,
  daDK,
  freshRedis,
  needsProcess,
  type Postgres,
  PostgresServer,
  type Redis,
  redisClient,
  startPostgres,
  startProxy,
  startRedis,
  type TcpProxy,
  until,
} from './index.js'
import { chosenVersion, postgresHost } from './postgres-binaries.js'
import { redisHost } from './redis-binaries.js'

const cleanups: (() => Promise<unknown>)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

function own<T extends { remove(): Promise<void> }>(service: T): T {
  cleanups.push(() => service.remove())
  return service
}

async function numbers(postgres: Postgres): Promise<number[]> {
  return (await postgres.query<{ n: number }>('select n from numbers order by n')).map((row) => row.n)
}

async function write(postgres: Postgres, n: number): Promise<void> {
  await postgres.query('create table if not exists numbers (n int primary key)')
  await postgres.query('insert into numbers values ($1)', [n])
}

describe('Postgres', () => {
  it('keeps what was committed through SIGKILL and a restart on the same port', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = own(await startPostgres())
    await write(postgres, 1)
    const before = postgres.pid
    await postgres.kill('SIGKILL')
    expect(postgres.isRunning).toBe(false)
    await expect(postgres.query('select 1')).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    await postgres.start()
    expect(postgres.pid).not.toBe(before)
    expect(await numbers(postgres)).toEqual([1])
  })

  it('answers nothing while frozen, and goes on when thawed', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = own(await startPostgres())
    const client = await postgres.connect()
    await postgres.freeze()
    let answered = false
    const answer = client.query('select 1').then(() => {
      answered = true
    })
    await expect(until(() => answered, { timeout: 300 })).rejects.toThrow('within 300 ms')
    await postgres.thaw()
    await answer
    await client.end()
  })

  it('clones its data with slots and system identifier, at one instant, while it runs', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = own(await startPostgres())
    await write(postgres, 1)
    await postgres.query("select pg_create_logical_replication_slot('kept', 'pgoutput')")
    const dataFrom = await postgres.cloneData()
    await write(postgres, 2)
    const clone = own(await startPostgres({ dataFrom }))
    expect(await numbers(clone)).toEqual([1])
    expect(await clone.query('select slot_name from pg_replication_slots')).toEqual([{ slot_name: 'kept' }])
    const identifier = 'select system_identifier::text from pg_control_system()'
    expect(await clone.query(identifier)).toEqual(await postgres.query(identifier))

    await postgres.restore(dataFrom)
    expect(await numbers(postgres)).toEqual([1])
  })

  it('has a system identifier of its own', async (context) => {
    needsProcess(context, ['postgres'])
    const [one, other] = await Promise.all([startPostgres().then(own), startPostgres().then(own)])
    const identifier = 'select system_identifier::text from pg_control_system()'
    expect(await one.query(identifier)).not.toEqual(await other.query(identifier))
  })

  it('follows a primary as its standby, and is promoted to a timeline of its own', async (context) => {
    needsProcess(context, ['postgres'])
    const primary = own(await startPostgres())
    await write(primary, 1)
    const standby = own(await startPostgres({ standbyOf: primary }))
    await write(primary, 2)
    await until(async () => (await numbers(standby)).length === 2, { message: 'the standby to catch up' })
    await primary.kill()
    await standby.promote()
    await write(standby, 3)
    expect(await numbers(standby)).toEqual([1, 2, 3])
    const [control] = await standby.query<{ line: number }>(
      "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int as line",
    )
    expect(control?.line).toBe(2)
  })

  it('takes settings at its start, by reload and at a restart', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = own(await startPostgres({ settings: { wal_sender_timeout: '5s' } }))
    const show = async (name: string) => Object.values((await postgres.query(`show ${name}`))[0]!)[0]
    expect(await show('wal_sender_timeout')).toBe('5s')
    await postgres.set({ wal_sender_timeout: '7s' })
    expect(await show('wal_sender_timeout')).toBe('7s')
    await postgres.set({ wal_sender_timeout: null })
    expect(await show('wal_sender_timeout')).toBe('5s')
    await postgres.stop('fast')
    await postgres.start({ max_replication_slots: '3' })
    expect(await show('max_replication_slots')).toBe('3')
    expect(await show('wal_level')).toBe('logical')
    expect(await show('fsync')).toBe('on')
  })

  it('asks for the password where told to', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = own(await startPostgres({ auth: 'scram-sha-256' }))
    expect(await postgres.query('select 1 as one')).toEqual([{ one: 1 }])
    await expect(postgres.connect('postgres', { user: 'postgres', password: 'wrong' })).rejects.toMatchObject({
      code: '28P01',
    })
  })

  it('says why it does not start', async (context) => {
    needsProcess(context, ['postgres'])
    await expect(startPostgres({ settings: { max_connections: 'many' } })).rejects.toThrow(/invalid value[\s\S]*many/)
  })

  it('leaves nothing on the disk when removed, also frozen', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = await startPostgres()
    const { pid } = postgres
    await postgres.freeze()
    await postgres.remove()
    expect(existsSync(postgres.dataDir)).toBe(false)
    expect(() => process.kill(pid, 0)).toThrow('ESRCH')
  })

  it('gives a test a database of its own, and drops it with sessions and slots', async () => {
    const database = await createDatabase({ collation: 'da-DK' })
    const client = await database.connect()
    expect((await client.query("select 'aa' < 'z' as less")).rows).toEqual([{ less: false }])
    await client.query("select pg_create_logical_replication_slot('dropped_with_' || current_database(), 'pgoutput')")
    await database.drop()
    await expect(database.connect()).rejects.toMatchObject({ code: '3D000' })
    await client.end().catch(() => {})
  })
})

describe('Redis', () => {
  it('loses everything by SIGKILL, or nothing with an append-only file', async (context) => {
    needsProcess(context, ['redis'])
    for (const [appendonly, left] of [
      ['no', null],
      ['yes', 'value'],
    ] as const) {
      const redis = own(await startRedis({ settings: { appendonly, appendfsync: 'everysec' } }))
      await command(redis, 'SET', 'key', 'value')
      await redis.kill('SIGKILL')
      await expect(command(redis, 'PING')).rejects.toThrow()
      await redis.start()
      expect(await command(redis, 'GET', 'key')).toBe(left)
    }
  })

  it('answers nothing while frozen, and goes on when thawed', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis())
    await redis.freeze()
    let answered = false
    const answer = command(redis, 'PING').then(() => {
      answered = true
    })
    await expect(until(() => answered, { timeout: 300 })).rejects.toThrow('within 300 ms')
    await redis.thaw()
    await answer
  })

  it('is put back to a snapshot of its data', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis({ settings: { appendonly: 'yes' } }))
    await command(redis, 'SET', 'key', 'old')
    const snapshot = await redis.cloneData()
    await command(redis, 'SET', 'key', 'new')
    await redis.restore(snapshot)
    expect(await command(redis, 'GET', 'key')).toBe('old')
    await redis.stop()
    expect(redis.isRunning).toBe(false)
  })

  it('takes settings at its start, while it runs and at a restart', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis({ settings: { requirepass: 'p:w', user: ['a on nopass +ping', 'b off'] } }))
    expect(await command(redis, 'ACL', 'USERS')).toEqual(['a', 'b', 'default'])
    await redis.config('maxmemory', '3mb')
    expect(await command(redis, 'CONFIG', 'GET', 'maxmemory')).toEqual(['maxmemory', '3145728'])
    await redis.stop()
    await redis.start({ maxmemory: '5mb' })
    expect(await command(redis, 'CONFIG', 'GET', 'maxmemory')).toEqual(['maxmemory', '5242880'])
  })

  it('follows a primary as its replica', async (context) => {
    needsProcess(context, ['redis'])
    const primary = own(await startRedis())
    const replica = own(await startRedis({ replicaOf: primary }))
    await command(primary, 'SET', 'key', 'value')
    await until(async () => (await command(replica, 'GET', 'key')) === 'value', { message: 'the replica to catch up' })
  })

  it('sorts as Danish does under da_DK', async (context) => {
    needsProcess(context, ['redis'])
    const env = await daDK()
    if (!env) return context.skip('the locale da_DK cannot be had here')
    const danish = own(await startRedis({ env }))
    const plain = own(await startRedis())
    const script = "return tostring('aa' < 'z')"
    expect([await command(danish, 'EVAL', script, '0'), await command(plain, 'EVAL', script, '0')]).toEqual([
      'false',
      'true',
    ])
  })

  it('is had empty by a test that needs no control over it', async () => {
    const redis = await freshRedis()
    const client = redis.client()
    expect(await client.get('key')).toBe(null)
    client.disconnect()
    await redis.remove()
  })
})

describe('the proxy', () => {
  /** A proxy before a Redis, as its two ends. */
  async function between(): Promise<[TcpProxy, Redis, Client]> {
    const redis = own(await startRedis())
    const proxy = await startProxy(redis.port)
    cleanups.push(() => proxy.close())
    const client = redisClient(proxy.url(redis.url))
    cleanups.push(async () => client.disconnect())
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
    await until(async () => (await command(redis, 'GET', 'key')) === 'value', { message: 'the command to arrive' })
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
    await expect(until(async () => command(redis, 'GET', 'key'), { timeout: 200 })).rejects.toThrow('within 200 ms')
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
    expect(await command(redis, 'GET', 'key')).toBe('value')
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

describe('the guard', () => {
  it('ends what a killed test run had started, frozen or not, and nothing else', async (context) => {
    needsProcess(context)
    const hosts = [await postgresHost(chosenVersion()), await redisHost()]
    if (!hosts.every((host) => host.isLocal))
      return context.skip('containers are ended by the reaper of testcontainers')
    const bystander = own(await startRedis())
    const script = `
      import { startPostgres, startRedis } from ${JSON.stringify(new URL('index.ts', import.meta.url).href)}
      const [postgres, redis] = await Promise.all([startPostgres(), startRedis()])
      const client = await postgres.connect()
      const { rows } = await client.query('select pg_backend_pid() as pid')
      await postgres.freeze()
      console.log(JSON.stringify({ pids: [postgres.pid, redis.pid, rows[0].pid], folder: redis.dataDir }))
      setInterval(() => {}, 1000)
    `
    const run = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [line] = await once(run.stdout, 'data')
    const { pids, folder } = JSON.parse(String(line)) as { pids: number[]; folder: string }
    expect(pids.map(isAlive)).toEqual([true, true, true])
    run.kill('SIGKILL')
    const gone = () => !pids.some(isAlive) && !existsSync(folder)
    await until(gone, { message: () => `the processes ${pids} and ${folder} to be gone` })
    expect(await command(bystander, 'PING')).toBe('PONG')
  })
})

describe('until', () => {
  it('returns what the condition returns, once it is something', async () => {
    let calls = 0
    expect(await until(() => ++calls === 3 && 'three')).toBe('three')
  })

  it('gives up with what was awaited and the last error, even if the condition hangs', async () => {
    const cause = new Error('not yet')
    const failing = until(() => Promise.reject(cause), { timeout: 30, message: () => 'the end of the world' })
    await expect(failing).rejects.toMatchObject({ message: 'Expected within 30 ms: the end of the world', cause })
    await expect(until(() => new Promise<true>(() => {}), { timeout: 30 })).rejects.toThrow('within 30 ms')
  })
})

describe('given servers', () => {
  it('end a test that needs a process, and say so', () => {
    vi.stubEnv('OUTRIDER_TEST_REDIS_URL', 'redis://given.example')
    const warn = vi.spyOn(console, 'warn').mockImplementation(() => {})
    const skip = vi.fn()
    needsProcess({ skip }, ['postgres'])
    expect(skip).not.toHaveBeenCalled()
    needsProcess({ skip })
    expect(skip).toHaveBeenCalledWith(expect.stringContaining('OUTRIDER_TEST_REDIS_URL names a given server'))
    expect(warn).toHaveBeenCalledOnce()
    vi.unstubAllEnvs()
    warn.mockRestore()
  })

  it('are used where no process is needed', async (context) => {
    needsProcess(context)
    const postgres = own(await startPostgres())
    const redis = own(await startRedis())
    vi.stubEnv('OUTRIDER_TEST_REDIS_URL', redis.url)
    const [one, other] = [await freshRedis(), await freshRedis()]
    expect([one.url, other.url]).toEqual([`${redis.url}/1`, `${redis.url}/2`])
    await one.remove()
    expect((await freshRedis()).url).toBe(one.url)
    await expect(startRedis()).rejects.toThrow('needsProcess')
    vi.unstubAllEnvs()
    const database = await new PostgresServer(postgres.url()).createDatabase()
    expect(await database.query('select 1 as one')).toEqual([{ one: 1 }])
  })
})

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

async function command(redis: Redis, ...words: [string, ...string[]]): Promise<unknown> {
  const client = redis.client()
  const [name, ...values] = words
  return client.call(name, ...values).finally(() => client.disconnect())
}
