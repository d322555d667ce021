import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished } from 'vitest'
import { ping } from '../../src/cli/ping.js'
import { OWN_OUTBOX } from '../../src/config/schema.js'
import { openIncident } from '../../src/postgres/incidents.js'
import { currentLineage } from '../../src/postgres/lineage.js'
import { fieldsOf } from '../../testkit/oracle/verdict.js'
import { freePort, needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { test } from '../relay/fixture.js'
import type { Scenario } from '../relay/scenario.js'
import { type CommandRun, runCommand } from '../support/command.js'

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))

/** Runs `outrider ping` in this process: as the owner of the database, or as whoever `url` says. */
function run(
  s: Scenario,
  flags: CommandRun['flags'] = {},
  { url, config, ...more }: CommandRun & { url?: string } = {},
) {
  const redis = { url: s.env.OUTRIDER_REDIS_URL as string, connectTimeout: 5_000 }
  return runCommand(ping, url ?? s.database.url, {
    ...more,
    flags: { wait: '20s', ...flags },
    config: { slot: s.slot, redis, ...config },
  })
}

async function fieldsAt(s: Scenario, key: string, entry: string): Promise<Record<string, string>> {
  const [found] = await s.redis.xrange(key, entry, entry)
  return fieldsOf(found?.[1] ?? [])
}

const pings = async (s: Scenario): Promise<string[]> => {
  const { rows } = await s.postgres.query("select id from outrider.outbox where type = 'io.outrider.ping'")
  return rows.map(({ id }) => id)
}

/** The URL of a role that can do nothing but what it is granted here. */
async function roleWith(s: Scenario, grants = ''): Promise<string> {
  const role = `pinger_${s.database.name}`
  await s.postgres.query(`create role ${role} login ${grants}`)
  onTestFinished(async () => {
    await s.database.server.query(`drop role ${role}`)
  })
  return s.database.urlAs({ user: role })
}

test('a ping goes through outbox, relay and a stream that was not there, and says how long it took', async ({
  scenario,
}) => {
  const s = await scenario()
  await s.relay()
  const { code, text } = await run(s)
  expect(code).toBe(0)
  const said = /^committed {2}event (\S+), in \d+ ms\nappended {3}entry (\d+-\d+) of stream ping, \d+ ms after that$/
  const [, id, entry] = said.exec(text) as unknown as [string, string, string]
  expect(await fieldsAt(s, 'ping', entry)).toMatchObject({ id, type: 'io.outrider.ping' })
  expect(await pings(s)).toEqual([id])
})

test('a ping of a stream with many events finds its own among those that came with it', async ({ scenario }) => {
  const s = await scenario()
  const relay = await s.relay()
  await relay.streaming()
  const fill = () => s.postgres.query(`select outrider.publish('orders', 'test.happened') from generate_series(1, 300)`)
  await fill()
  await until(async () => (await s.ids('orders')).length === 300)
  // Frozen, the relay gets all of it at once: the ping's entry is neither the first nor the last that is new.
  relay.signal('SIGSTOP')
  await fill()
  const waiting = run(s, { stream: 'orders' }, { json: true })
  await until(async () => (await pings(s)).length === 1)
  await fill()
  relay.signal('SIGCONT')
  const { code, text } = await waiting
  const { id, key, entry, committedMs, appendedMs } = JSON.parse(text)
  expect([code, key]).toEqual([0, 'orders'])
  expect(await fieldsAt(s, 'orders', entry)).toMatchObject({ id, type: 'io.outrider.ping' })
  expect([committedMs, appendedMs]).toEqual([expect.any(Number), expect.any(Number)])
})

test('a ping of a partitioned stream looks where the relay puts it, also as a role that may only write', async ({
  scenario,
}) => {
  const s = await scenario({ partitions: { orders: 16 } })
  const relay = await s.relay()
  await relay.streaming()
  const url = await roleWith(s, 'in role outrider_writer')
  const keys = new Set<string>()
  for (const as of [{}, { url }, {}, { url }]) {
    const { text } = await run(s, { stream: 'orders' }, { json: true, ...as })
    const { id, key, entry } = JSON.parse(text)
    expect(key).toMatch(/^orders:\d+$/)
    expect(await fieldsAt(s, key, entry)).toMatchObject({ id })
    keys.add(key)
  }
  expect(keys.size).toBeGreaterThan(1)
})

test('a ping that nobody carries says so in time, and leaves the event to the relay that comes', async ({
  scenario,
}) => {
  const s = await scenario()
  const failure = await run(s, { wait: '100ms' }).catch((error) => error)
  const [id] = await pings(s)
  expect(failure).toMatchObject({
    exitCode: 1,
    message:
      `Expected event ${id} in stream ping within 0.1 s, found that it is not there: nobody reads slot ${s.slot}. ` +
      'Start `outrider relay`; where one runs, its log says what is wrong. ' +
      'It is committed: it is published once nothing stands in the way.',
  })
  await s.relay()
  await until(async () => (await s.ids('ping')).includes(id as string))
})

test('a ping that does not arrive names the open incident, the slot that is missing, or where else to look', async ({
  scenario,
  skip,
}) => {
  needsProcess({ skip })
  const s = await scenario()
  await expect(run(s, { wait: '100ms' }, { config: { slot: 'outrider_elsewhere' } })).rejects.toThrow(
    'found that it is not there: there is no slot outrider_elsewhere. Is OUTRIDER_SLOT what the relay has?',
  )
  const relay = await s.relay()
  await relay.streaming()
  const elsewhere = await startRedis()
  onTestFinished(() => elsewhere.remove())
  await expect(
    run(s, { wait: '100ms' }, { config: { redis: { url: elsewhere.url, connectTimeout: 5_000 } } }),
  ).rejects.toThrow(
    `slot ${s.slot} is being read, and no incident is to be seen. Look at the relay's /readyz, and whether its Redis is the one at 127.0.0.1:${elsewhere.port}.`,
  )
  const lineage = (await currentLineage(s.postgres, s.slot))!.lineage
  await openIncident(s.postgres, { lineage, kind: 'gap', reason: 'stream_behind', stream: 'orders' })
  await relay.stop()
  await expect(run(s, { wait: '100ms' })).rejects.toThrow(
    'open incidents 1 (gap, stream_behind in orders). `outrider incidents show 1` tells more.',
  )
})

test('nothing is committed by a role that may not write, or where the stream may not be read', async ({
  scenario,
  skip,
}) => {
  needsProcess({ skip })
  const s = await scenario()
  const url = await roleWith(s)
  const role = new URL(url).username
  await expect(run(s, {}, { url })).rejects.toMatchObject({
    exitCode: 1,
    message: expect.stringContaining(`\`outrider setup --grant-writer ${role}\``),
  })
  await s.postgres.query(`grant outrider_relay to ${role}`)
  await expect(run(s, {}, { url })).rejects.toThrow(`grant outrider_writer to "${role}"`)

  await s.redis.call('ACL', 'SETUSER', 'blind', 'on', '>x', '~*', '+@all', '-xrange')
  const redis = new URL(s.env.OUTRIDER_REDIS_URL as string)
  redis.username = 'blind'
  redis.password = 'x'
  await expect(run(s, {}, { config: { redis: { url: redis.href, connectTimeout: 5_000 } } })).rejects.toMatchObject({
    exitCode: 1,
    message: expect.stringMatching(/^Redis refused: NOPERM .* Permit it in the ACL of the user/),
  })
  await s.redis.set('ping', 'something else')
  await expect(run(s)).rejects.toThrow('The key holds something else than a stream')
  expect(await pings(s)).toEqual([])
})

test("wrong usage is refused: a mapped outbox, a stream's name, a duration", async ({ scenario }) => {
  const s = await scenario()
  const mapped = { outbox: { ...OWN_OUTBOX, table: 'public.outbox' } }
  await expect(run(s, {}, { config: mapped })).rejects.toMatchObject({
    exitCode: 2,
    message: expect.stringContaining(
      'Expected the outbox to be outrider.outbox, found that outbox.table is public.outbox',
    ),
  })
  for (const flags of [{ stream: 'outrider.x' }, { stream: 'a b' }, { wait: 'soon' }, { wait: '0' }, { wait: '2h' }]) {
    await expect(run(s, flags)).rejects.toMatchObject({ name: 'Failure', exitCode: 2 })
  }
  expect(await pings(s)).toEqual([])
})

test('on the command line: 0 with what was done, 3 where one cannot be reached, also in the middle', async ({
  scenario,
  skip,
}) => {
  needsProcess({ skip })
  const redis = await startRedis()
  const s = await scenario({ redis })
  const start = (more: Record<string, string>, ...args: string[]) => {
    const child = spawn(process.execPath, ['--import', 'tsx', MAIN, 'ping', ...args], {
      env: { PATH: process.env.PATH, ...s.env, OUTRIDER_POSTGRES_URL: s.database.url, ...more },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    return Promise.all([once(child, 'close'), text(child.stdout), text(child.stderr)])
  }
  const relay = await s.relay()
  const [[done], out, err] = await start({})
  expect([done, err, out]).toEqual([
    0,
    '',
    expect.stringMatching(/^committed {2}event [^\n]+\nappended {3}entry [^\n]+\n$/),
  ])
  const port = await freePort()
  const [[noRedis], , saysRedis] = await start({ OUTRIDER_REDIS_URL: `redis://127.0.0.1:${port}` })
  expect([noRedis, saysRedis]).toEqual([3, expect.stringMatching(/^outrider: Redis at [^\n]+ECONNREFUSED[^\n]+\n$/)])
  const [[noPostgres]] = await start({ OUTRIDER_POSTGRES_URL: `postgres://127.0.0.1:${port}/shop` })
  expect(noPostgres).toBe(3)
  expect(await pings(s)).toHaveLength(1)

  await relay.stop()
  const interrupted = start({})
  await until(async () => (await pings(s)).length === 2)
  await redis.kill()
  const [[lost], , saysLost] = await interrupted
  expect([lost, saysLost]).toEqual([
    3,
    expect.stringMatching(/^outrider: The connection to Redis broke: [^\n]+ Event \S+ is committed: [^\n]+\n$/),
  ])
})
