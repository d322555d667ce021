import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { expect, onTestFinished } from 'vitest'
import { ping } from '../../src/cli/ping.js'
import { OWN_OUTBOX } from '../../src/config/schema.js'
import { openIncident } from '../../src/postgres/state/incidents.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { fieldsOf } from '../../testkit/entry.js'
import { MAIN } from '../../testkit/outrider.js'
import { freePort, needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from '../relay/relay-env.js'
import { type CommandRun, runCommand } from '../support/command.js'
import { createMigratedDatabase } from '../support/migrated-database.js'

/** Runs `outrider ping` in this process: as the owner of the database, or as whoever `url` says. */
function run(
  env: RelayEnv,
  flags: CommandRun['flags'] = {},
  { url, config, ...more }: CommandRun & { url?: string } = {},
) {
  const redis = { url: env.variables.OUTRIDER_REDIS_URL as string, connectTimeout: 5_000 }
  return runCommand(ping, url ?? env.database.url, {
    ...more,
    flags: { wait: '1m', ...flags },
    config: { slot: env.slot, redis, ...config },
  })
}

async function fieldsAt(env: RelayEnv, key: string, entry: string): Promise<Record<string, string>> {
  const [found] = await env.redis.xrange(key, entry, entry)
  return fieldsOf(found?.[1] ?? [])
}

const pings = async (env: RelayEnv): Promise<string[]> => {
  const { rows } = await env.postgres.query("select id from outrider.outbox where type = 'io.outrider.ping'")
  return rows.map(({ id }) => id)
}

/** The URL of a role that can do nothing but what it is granted here. */
async function roleWith(env: RelayEnv, grants = ''): Promise<string> {
  const role = `pinger_${env.database.name}`
  await env.postgres.query(`create role ${role} login ${grants}`)
  onTestFinished(async () => {
    await env.database.server.query(`drop role ${role}`)
  })
  return env.database.urlAs({ user: role })
}

test('a ping goes through outbox, relay and a stream that was not there, and says how long it took', async ({
  env,
}) => {
  await env.relay()
  const { code, text } = await run(env)
  expect(code).toBe(0)
  const said = /^committed {2}event (\S+), in \d+ ms\nappended {3}entry (\d+-\d+) of stream ping, \d+ ms after that$/
  const [, id, entry] = said.exec(text) as unknown as [string, string, string]
  expect(await fieldsAt(env, 'ping', entry)).toMatchObject({ id, type: 'io.outrider.ping' })
  expect(await pings(env)).toEqual([id])
})

test('a ping of a stream with many events finds its own among those that came with it', async ({ env }) => {
  const relay = await env.streamingRelay()
  const fill = () =>
    env.postgres.query(`select outrider.publish('orders', 'test.happened') from generate_series(1, 300)`)
  await fill()
  await until(async () => (await env.ids('orders')).length === 300)
  // Frozen, the relay gets all of it at once: the ping's entry is neither the first nor the last that is new.
  relay.signal('SIGSTOP')
  await fill()
  const waiting = run(env, { stream: 'orders' }, { json: true })
  await until(async () => (await pings(env)).length === 1)
  await fill()
  relay.signal('SIGCONT')
  const { code, text } = await waiting
  const { id, key, entry, committedMs, appendedMs } = JSON.parse(text)
  expect([code, key]).toEqual([0, 'orders'])
  expect(await fieldsAt(env, 'orders', entry)).toMatchObject({ id, type: 'io.outrider.ping' })
  expect([committedMs, appendedMs]).toEqual([expect.any(Number), expect.any(Number)])
})

test('a ping of a partitioned stream looks where the relay puts it, also as a role that may only write', async ({
  createEnv,
}) => {
  const env = await createEnv({ partitions: { orders: 16 } })
  await env.streamingRelay()
  const url = await roleWith(env, 'in role outrider_writer')
  const keys = new Set<string>()
  for (const as of [{}, { url }, {}, { url }]) {
    const { text } = await run(env, { stream: 'orders' }, { json: true, ...as })
    const { id, key, entry } = JSON.parse(text)
    expect(key).toMatch(/^orders:\d+$/)
    expect(await fieldsAt(env, key, entry)).toMatchObject({ id })
    keys.add(key)
  }
  expect(keys.size).toBeGreaterThan(1)
})

test('a ping that no relay carries says so in time, and leaves the event to the relay that comes', async ({ env }) => {
  const failure = await run(env, { wait: '100ms' }).catch((error) => error)
  const [id] = await pings(env)
  expect(failure).toMatchObject({
    exitCode: 1,
    message:
      `Expected event ${id} in stream ping within 0.1 s, found that it is not there: no process reads slot ${env.slot}. ` +
      'Start `outrider relay`; where one runs, its log says what is wrong. ' +
      'It is committed: it is published once nothing blocks it.',
  })
  await env.relay()
  await until(async () => (await env.ids('ping')).includes(id as string))
})

test('a ping in a database that has an inbox alone says that the outbox is missing', async ({ env }) => {
  const database = await createMigratedDatabase('inbox')
  onTestFinished(() => database.drop())
  await expect(run(env, {}, { url: database.url })).rejects.toThrow('`outrider setup` creates or completes it')
})

test('a ping that does not arrive names the open incident, the slot that is missing, or where else to look', async ({
  env,
  skip,
}) => {
  needsProcess({ skip })
  await expect(run(env, { wait: '100ms' }, { config: { slot: 'outrider_elsewhere' } })).rejects.toThrow(
    'found that it is not there: there is no slot outrider_elsewhere. Is OUTRIDER_SLOT the same as that of the relay?',
  )
  const relay = await env.streamingRelay()
  const elsewhere = await startRedis()
  onTestFinished(() => elsewhere.remove())
  await expect(
    run(env, { wait: '100ms' }, { config: { redis: { url: elsewhere.url, connectTimeout: 5_000 } } }),
  ).rejects.toThrow(
    `slot ${env.slot} is being read, and no incident is to be seen. Look at the relay's /readyz, and whether its Redis is the one at 127.0.0.1:${elsewhere.port}.`,
  )
  const lineage = (await currentLineage(env.postgres, env.slot))!.lineage
  await openIncident(env.postgres, { lineage, kind: 'gap', reason: 'stream_behind', stream: 'orders' })
  await relay.stop()
  await expect(run(env, { wait: '100ms' })).rejects.toThrow(
    'open incidents 1 (gap, stream_behind in orders). `outrider incidents show 1` tells more.',
  )
})

test('nothing is committed by a role that may not write, or where the stream may not be read', async ({
  env,
  skip,
}) => {
  needsProcess({ skip })
  const url = await roleWith(env)
  const role = new URL(url).username
  await expect(run(env, {}, { url })).rejects.toMatchObject({
    exitCode: 1,
    message: expect.stringContaining(`\`outrider setup --grant-writer ${role}\``),
  })
  await env.postgres.query(`grant outrider_relay to ${role}`)
  await expect(run(env, {}, { url })).rejects.toThrow(`grant outrider_writer to "${role}"`)

  await env.redis.call('ACL', 'SETUSER', 'blind', 'on', '>x', '~*', '+@all', '-xrange')
  const redis = new URL(env.variables.OUTRIDER_REDIS_URL as string)
  redis.username = 'blind'
  redis.password = 'x'
  await expect(run(env, {}, { config: { redis: { url: redis.href, connectTimeout: 5_000 } } })).rejects.toMatchObject({
    exitCode: 1,
    message: expect.stringMatching(/^Redis refused: NOPERM .* Permit it in the ACL of the user/),
  })
  await env.redis.set('ping', 'something else')
  await expect(run(env)).rejects.toThrow('The key holds something else than a stream')
  expect(await pings(env)).toEqual([])
})

test("wrong usage is refused: a mapped outbox, a stream's name, a duration", async ({ env }) => {
  const mapped = { outbox: { ...OWN_OUTBOX, table: 'public.outbox' } }
  await expect(run(env, {}, { config: mapped })).rejects.toMatchObject({
    exitCode: 2,
    message: expect.stringContaining(
      'Expected the outbox to be outrider.outbox, found that outbox.table is public.outbox',
    ),
  })
  for (const flags of [{ stream: 'outrider.x' }, { stream: 'a b' }, { wait: 'soon' }, { wait: '0' }, { wait: '2h' }]) {
    await expect(run(env, flags)).rejects.toMatchObject({ name: 'OutriderError', exitCode: 2 })
  }
  expect(await pings(env)).toEqual([])
})

test('on the command line: 0 with what was done, 3 where one cannot be reached, also in the middle', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip })
  const redis = await startRedis()
  const env = await createEnv({ redis })
  const start = (more: Record<string, string>, ...args: string[]) => {
    const child = spawn(process.execPath, [MAIN, 'ping', ...args], {
      env: { PATH: process.env.PATH, ...env.variables, OUTRIDER_POSTGRES_URL: env.database.url, ...more },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    return Promise.all([once(child, 'close'), text(child.stdout), text(child.stderr)])
  }
  const relay = await env.relay()
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
  expect(await pings(env)).toHaveLength(1)

  await relay.stop()
  const interrupted = start({})
  await until(async () => (await pings(env)).length === 2)
  await redis.kill()
  const [[lost], , saysLost] = await interrupted
  expect([lost, saysLost]).toEqual([
    3,
    expect.stringMatching(/^outrider: The connection to Redis broke: [^\n]+ Event \S+ is committed: [^\n]+\n$/),
  ])
})
