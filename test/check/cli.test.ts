import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest'
import { setup } from '../../src/cli/setup.js'
import { MAIN } from '../../testkit/outrider.js'
import {
  type Database,
  freePort,
  needsProcess,
  type Postgres,
  type Redis,
  startPostgres,
  startRedis,
} from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'

const PASSWORD = 'hunter2-the-right-one'

let postgres: Postgres
let database: Database
let redis: Redis
let good: Record<string, string>

beforeEach((context) => needsProcess(context))

beforeAll(async () => {
  if (process.env.OUTRIDER_TEST_POSTGRES_URL || process.env.OUTRIDER_TEST_REDIS_URL) return
  postgres = await startPostgres({ syncs: false, auth: 'scram-sha-256', settings: { max_slot_wal_keep_size: '1GB' } })
  database = await postgres.createDatabase('shop')
  await runCommand(setup, database.url)
  await database.query(`create role relay login replication password '${PASSWORD}' in role outrider_relay`)
  redis = await startRedis({ settings: { maxmemory: '256mb', appendonly: 'yes', requirepass: PASSWORD } })
  good = {
    OUTRIDER_POSTGRES_URL: database.urlAs({ user: 'relay', password: PASSWORD }),
    OUTRIDER_REDIS_URL: redis.url,
  }
})

afterAll(async () => {
  await postgres?.remove()
  await redis?.remove()
})

/** `outrider check` as a person runs it, though without a terminal. */
async function check(env: Record<string, string>, ...args: string[]) {
  const child = spawn(process.execPath, [MAIN, 'check', ...args], {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  const [out, err, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  expect(out + err).not.toContain('\u001b')
  expect(out + err).not.toMatch(/hunter2|\bat .*:\d+:\d+|node_modules/)
  return { code, out, err }
}

test('ready: exit code 0, in words and as data', async () => {
  const { code, out, err } = await check(good)
  expect([code, err]).toEqual([0, ''])
  expect(out).toMatch(/^PostgreSQL \d+.* at 127\.0\.0\.1:\d+, database shop, role relay\n {2}✓ no problem found\n/)
  expect(out).toMatch(/\nReady\.\n$/)
  const data = await check(good, '--json')
  expect(data.code).toBe(0)
  expect(JSON.parse(data.out)).toMatchObject({ findings: [{ server: 'redis', id: 'durability' }], unchecked: [] })
})

test('findings: exit code 4, and each statement on a line of its own', async () => {
  await database.query('alter role relay noreplication')
  onTestFinished(() => database.query('alter role relay replication').then(() => {}))
  const { code, out, err } = await check(good)
  expect([code, err]).toEqual([4, ''])
  expect(out).toContain('  ✗ role relay may not replicate [replication-privilege]\n')
  expect(out).toMatch(/^ {6}alter role "relay" replication;$/m)
  expect(out).toMatch(/\n1 blocker\.\n$/)
})

test('before setup: 4 for a blocker with both ways on, 0 for a warning, 2 for the second option alone', async () => {
  await postgres.set({ max_slot_wal_keep_size: '-1' })
  onTestFinished(() => postgres.set({ max_slot_wal_keep_size: null }))
  const stopped = await check(good, '--before-setup')
  expect([stopped.code, stopped.err]).toEqual([4, ''])
  expect(stopped.out).toContain('  ✗ max_slot_wal_keep_size is -1: no limit [slot-wal-unbounded]\n')
  expect(stopped.out).toMatch(/^ {6}alter system set max_slot_wal_keep_size = '20GB';$/m)
  expect(stopped.out).toMatch(/^ {6}outrider check --before-setup --allow-unbounded-wal$/m)
  const allowed = await check(good, '--before-setup', '--allow-unbounded-wal')
  expect([allowed.code, allowed.err]).toEqual([0, ''])
  expect(allowed.out).toMatch(/\n1 warning\.\n$/)
  expect((await check(good, '--allow-unbounded-wal')).code).toBe(2)
})

test('a server that cannot be reached is named as not checked, without a verdict: exit code 3, and the other one is checked', async () => {
  const port = await freePort()
  const noRedis = await check({ ...good, OUTRIDER_REDIS_URL: `redis://:hunter2@127.0.0.1:${port}` })
  expect([noRedis.code, noRedis.err]).toEqual([
    3,
    expect.stringMatching(/^outrider: Redis at [^\n]+ECONNREFUSED[^\n]+\n$/),
  ])
  expect(noRedis.out).toMatch(/^PostgreSQL \d+/)
  expect(noRedis.out).not.toContain('Ready')
  expect(noRedis.out).toMatch(/\nNot checked: Redis\.\n$/)
  const data = await check({ ...good, OUTRIDER_REDIS_URL: `redis://:hunter2@127.0.0.1:${port}` }, '--json')
  expect(data.code).toBe(3)
  expect(JSON.parse(data.out)).toEqual({
    findings: [],
    unchecked: [{ server: 'redis', reason: expect.stringContaining('ECONNREFUSED') }],
  })
  const noPostgres = await check({ ...good, OUTRIDER_POSTGRES_URL: `postgres://relay:hunter2@127.0.0.1:${port}/shop` })
  expect([noPostgres.code, noPostgres.err]).toEqual([3, expect.stringMatching(/^outrider: Postgres at [^\n]+\n$/)])
  expect(noPostgres.out).toMatch(/^Redis \d+/)
  expect(noPostgres.out).not.toContain('Ready')
  expect(noPostgres.out).toMatch(/\nNot checked: Postgres\.\n$/)
})

test('a wrong password: exit code 1, one line', async () => {
  const wrong = { ...good, OUTRIDER_POSTGRES_URL: database.urlAs({ user: 'relay', password: 'hunter2' }) }
  const { code, out, err } = await check(wrong)
  expect([code, err]).toEqual([
    1,
    expect.stringMatching(/^outrider: Postgres at [^\n]+ refused the password of role "relay"[^\n]+\n$/),
  ])
  expect(out).toMatch(/^Redis \d+/)
  const both = { ...wrong, OUTRIDER_REDIS_URL: redis.url.replace(/:[^:@]+@/, ':hunter2@') }
  const neither = await check(both)
  expect([neither.code, neither.out, neither.err]).toEqual([
    1,
    'Not checked: Postgres, Redis.\n',
    expect.stringMatching(/^outrider: Postgres [^\n]+ Redis [^\n]+\(WRONGPASS\)[^\n]+\n$/),
  ])
})

test('a server that accepts and then says nothing: exit code 3 within --timeout', async () => {
  await postgres.freeze()
  onTestFinished(() => postgres.thaw())
  const began = performance.now()
  const { code, out, err } = await check(good, '--timeout', '3s')
  expect([code, err]).toEqual([
    3,
    expect.stringMatching(/^outrider: Postgres at [^\n]+ did not answer within 3000 ms[^\n]+\n$/),
  ])
  expect(out).toMatch(/^Redis \d+/)
  expect(performance.now() - began).toBeLessThan(12_000)
})
