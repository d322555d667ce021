import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Finding } from '../../src/check/finding.js'
import { setup } from '../../src/cli/setup.js'
import type { Config } from '../../src/config/schema.js'
import { type Database, needsProcess, type Redis, redisVersion, startRedis } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { createMigratedDatabase } from '../support/migrated-database.js'
import { type Checked, runCheck } from './run.js'

const HEALTHY = { maxmemory: '256mb', appendonly: 'yes' }

let database: Database
let redis: Redis | undefined

beforeEach((context) => needsProcess(context, ['redis']))

beforeAll(async () => {
  database = await createMigratedDatabase('outbox')
  await runCommand(setup, database.url)
})

afterAll(() => database.drop())

afterEach(async () => {
  await redis?.remove()
  redis = undefined
})

async function start(settings: Record<string, string>, version?: '8.0'): Promise<Redis> {
  redis = await startRedis({ settings: { ...HEALTHY, ...settings }, ...(version && { version }) })
  return redis
}

/** What is said of Redis alone: the shared cluster has its own findings. */
async function look(config: Partial<Config> = {}, url = redis!.url): Promise<Finding[]> {
  const { findings }: Checked = await runCheck(database.url, url, config)
  return findings.filter(({ server }) => server === 'redis')
}

const brief = (findings: Finding[]) => findings.map(({ level, id }) => `${level} ${id}`)

/** What is to be typed into redis-cli. */
async function type(text: string): Promise<void> {
  const client = redis!.client()
  for (const line of text.split('\n')) {
    const [name, ...args] = line.split(' ')
    await client.call(name!, ...args)
  }
  client.disconnect()
}

describe('one thing wrong is one finding, and its statement mends it:', () => {
  test.each<[string, Record<string, string>, string, string]>([
    [
      'keys are evicted',
      { 'maxmemory-policy': 'allkeys-lru' },
      'blocker eviction-policy',
      'CONFIG SET maxmemory-policy noeviction\nCONFIG REWRITE',
    ],
    [
      'keys with a time to live are evicted',
      { 'maxmemory-policy': 'volatile-ttl' },
      'warning eviction-policy',
      'CONFIG SET maxmemory-policy noeviction\nCONFIG REWRITE',
    ],
    ['memory has no limit', { maxmemory: '0' }, 'warning maxmemory-unset', 'CONFIG SET maxmemory'],
    [
      'nothing is written to disk',
      { appendonly: 'no' },
      'warning persistence-off',
      'CONFIG SET appendonly yes\nCONFIG REWRITE',
    ],
  ])('%s', async (_what, settings, expected, statement) => {
    await start(settings)
    const findings = await look()
    const open = findings.filter(({ level }) => level !== 'info')
    expect(brief(open)).toEqual([expected])
    expect(open[0]!.fix[0]!.text).toContain(statement)
    await type(open[0]!.fix[0]!.text)
    expect(brief(await look())).toEqual(['info durability'])
  })

  test('Redis has no configuration file: the setting and the place that keeps it, and no CONFIG REWRITE', async () => {
    redis = await startRedis({ settings: { ...HEALTHY, maxmemory: '0' }, configFile: false })
    const [finding] = await look()
    expect(finding).toMatchObject({
      id: 'maxmemory-unset',
      fix: [
        {
          how: expect.stringContaining('until Redis restarts'),
          text: expect.stringMatching(/^CONFIG SET maxmemory \S+$/),
        },
        { how: expect.stringContaining('Helm values'), text: expect.stringMatching(/^maxmemory \S+$/) },
      ],
    })
    await type(finding!.fix[0]!.text)
    expect(brief(await look())).toEqual(['info durability'])
    await type('ACL SETUSER relay on >hunter2 +info ~*')
    const denied = await look({}, redis.url.replace('redis://', 'redis://relay:hunter2@'))
    expect(denied.find(({ id }) => id === 'redis-permission')?.fix[0]?.how).toMatch(/aclfile.*Helm values/)
  })

  test('memory is nearly full', async () => {
    const client = (await start({})).client()
    const [, used] = /used_memory:(\d+)/.exec(await client.info('memory'))!
    await client.config('SET', 'maxmemory', String(Math.round(Number(used) * 1.12)))
    client.disconnect()
    const [finding] = await look()
    expect(finding).toMatchObject({ level: 'warning', id: 'memory-low' })
    await type(finding!.fix[0]!.text)
    expect(brief(await look())).toEqual(['info durability'])
  })

  test('the append-only file is off, and fsync was asked for', async (context) => {
    if (!(await redisVersion(context, '8.0'))) return
    await start({ appendonly: 'no' }, '8.0')
    const findings = await look({ durability: 'fsync' })
    expect(brief(findings)).toEqual(['blocker persistence-off'])
    await type(findings[0]!.fix[0]!.text)
    expect(await look({ durability: 'fsync' })).toMatchObject([{ level: 'info', is: 'durability fsync' }])
    expect(await look()).toMatchObject([{ level: 'info', is: 'durability auto reaches fsync' }])
  })

  test('a replica was asked for, and there is none', async () => {
    await start({})
    const findings = await look({ durability: 'replicated' })
    expect(findings).toMatchObject([
      { level: 'blocker', id: 'durability-unmet', fix: [{ text: 'OUTRIDER_DURABILITY=auto' }] },
    ])
  })
})

const ENOUGH =
  '+evalsha +script|load +hmget +hset +hgetall +hdel +set +del +info +memory +wait +waitaof +time +xinfo +xpending +xrange +xtrim +xadd'

/** Of which a relay needs nothing on the key of a stream, where they would be its end. */
const APART =
  'ACL SETUSER relay (+del ~outrider:{*}:head:* ~outrider:{trial}:* ~outrider:{check}:*) ' +
  '(+set ~outrider:{*}:partitions ~outrider:{*}:alive ~outrider:{trial}:* ~outrider:{check}:*)'

describe('permissions: what the user lacks is what the statement grants', () => {
  const as = (user: string) => redis!.url.replace('redis://', `redis://${user}:hunter2@`)
  const create = async (rights: string) => {
    const client = (await start({})).client()
    // Only a command that the version knows can be granted.
    const [waitAof] = (await client.call('COMMAND', 'INFO', 'WAITAOF')) as unknown[]
    client.disconnect()
    await type(`ACL SETUSER relay on >hunter2 ${waitAof ? rights : rights.replace(' +waitaof', '')}`)
  }

  test('enough is enough', async () => {
    await create(`${ENOUGH} ~outrider:* ~orders`)
    expect(brief(await look({ streams: { orders: {} } }, as('relay')))).toEqual(['info durability'])
  })

  test.each<[string, string, string]>([
    ['xadd', ENOUGH.replace(' +xadd', ''), 'ACL SETUSER relay +xadd'],
    ['evalsha', ENOUGH.replace('+evalsha ', ''), 'ACL SETUSER relay +evalsha'],
    ['script|load', ENOUGH.replace(' +script|load', ''), 'ACL SETUSER relay +script|load'],
    ['hset', ENOUGH.replace(' +hset', ''), 'ACL SETUSER relay +hset'],
    ['set and del', ENOUGH.replace(' +set +del', ''), APART],
  ])('without %s', async (_command, rights, statement) => {
    await create(`${rights} ~outrider:* ~orders`)
    const findings = await look({ streams: { orders: {} } }, as('relay'))
    expect(findings).toMatchObject([{ level: 'blocker', id: 'redis-permission', fix: [{ text: statement }] }])
    await type(findings[0]!.fix[0]!.text)
    expect(brief(await look({ streams: { orders: {} } }, as('relay')))).toEqual(['info durability'])
  })

  test('without a stream, and without what only durability needs', async () => {
    await create(`${ENOUGH} ~outrider:*`)
    const streams = { orders: { partitions: 4 } }
    expect(await look({ streams }, as('relay'))).toMatchObject([{ fix: [{ text: 'ACL SETUSER relay ~orders:*' }] }])
    await type('ACL SETUSER relay ~orders:* -wait')
    const [finding] = await look({ streams }, as('relay'))
    expect(finding).toMatchObject({ level: 'warning', fix: [{ text: 'ACL SETUSER relay +wait' }] })
    await type('ACL SETUSER relay -xrange')
    const [both] = await look({ streams }, as('relay'))
    expect(both).toMatchObject({
      level: 'warning',
      why: 'the relay cannot wait until events are safe, nor repair a gap: it would halt',
      fix: [{ text: 'ACL SETUSER relay +xrange +wait' }],
    })
  })

  test('without what only trimming needs', async () => {
    const keys = ['~outrider:{orders}:head:*', '~outrider:{*}:alive', '~outrider:{check}:*', '~outrider:{trial}:*']
    await create(`${ENOUGH.replace(/ \+(xtrim|time|memory)/g, '')} ~orders ${keys.join(' ')}`)
    const streams = { orders: {} }
    const [finding] = await look({ streams }, as('relay'))
    expect(finding).toMatchObject({
      level: 'warning',
      why: 'the relay cannot tell how large streams are, nor trim streams: they grow',
    })
    await type(finding!.fix[0]!.text)
    expect(brief(await look({ streams }, as('relay')))).toEqual(['info durability'])
  })

  test('without the heads of a stream, and of another that is partitioned', async () => {
    await create(`${ENOUGH} ~outrider:{check}:* ~outrider:{trial}:* ~orders ~users:*`)
    const streams = { orders: {}, users: { partitions: 4 } }
    const [finding] = await look({ streams }, as('relay'))
    const heads = 'ACL SETUSER relay ~outrider:{orders}:head:* ~outrider:{users:*}:head:* '
    expect(finding).toMatchObject({ level: 'blocker', fix: [{ text: expect.stringContaining(heads) }] })
    await type(finding!.fix[0]!.text)
    expect(brief(await look({ streams }, as('relay')))).toEqual(['info durability'])
  })

  test('nothing is written by any trial', async () => {
    await start({})
    await look({ streams: { orders: {} } })
    const client = redis!.client()
    expect(await client.keys('*')).toEqual([])
    client.disconnect()
  })
})

test('a replica is told from its primary', async () => {
  const primary = await start({})
  const replica = await startRedis({ replicaOf: primary, settings: HEALTHY })
  try {
    const findings = await look({}, replica.url)
    expect(brief(findings)).toEqual(['blocker redis-replica'])
    expect(findings[0]!.fix[0]!.text).toContain(String(primary.port))
  } finally {
    await replica.remove()
  }
})
