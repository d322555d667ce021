import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { text } from 'node:stream/consumers'
import { type Postgres, startPostgres } from './postgres.js'
import { type Database, type DatabaseOptions, PostgresServer } from './postgres-server.js'
import { type Redis, redisClient, startRedis } from './redis.js'

/** Where the run's one cluster can be asked for; set by `offerPostgres` for the test workers. */
const broker = 'OUTRIDER_TEST_BROKER'

/** Several test files at once, each with several tests at once. */
const SHARED_BY_MANY = { max_connections: '400', max_replication_slots: '100', max_wal_senders: '100' }

let shared: Promise<PostgresServer> | undefined
let own: Promise<Postgres> | undefined

/** The cluster of the whole test run, or the given one. Change no settings of it, and never stop it. */
export function sharedPostgres(): Promise<PostgresServer> {
  shared ??= findPostgres()
  return shared
}

/** A new empty database in the shared cluster; its `drop()` takes its replication slots along. */
export async function createDatabase(options?: DatabaseOptions): Promise<Database> {
  return (await sharedPostgres()).createDatabase(undefined, { strategy: 'file_copy', ...options })
}

/** What a test may use when it needs no control over the process. */
export type FreshRedis = Pick<Redis, 'url' | 'client' | 'remove'>

/** Servers of this process that `freshRedis` gave out, and that are empty again. */
const idle: Redis[] = []

/**
 * An empty Redis that no other has at the same time, or an empty logical database of the given server. To empty one
 * is faster than to start one, so `remove()` keeps it for the next caller, unless it was configured.
 */
export async function freshRedis(): Promise<FreshRedis> {
  const given = process.env.OUTRIDER_TEST_REDIS_URL
  if (given) return emptyDatabase(given)
  const redis = idle.pop() ?? (await startRedis())
  const before = await configurationOf(redis)
  return {
    url: redis.url,
    client: (options) => redis.client(options),
    async remove() {
      if ((await configurationOf(redis)) !== before) return redis.remove()
      const client = redis.client()
      try {
        // What still lives of a test must not write into the next one.
        await client.call('CLIENT', 'KILL', 'SKIPME', 'yes')
        await client.pipeline().flushall('SYNC').script('FLUSH').function('FLUSH').config('RESETSTAT').exec()
      } finally {
        client.disconnect()
      }
      idle.push(redis)
    },
  }
}

/** All that a client can change and that FLUSHALL leaves. */
async function configurationOf(redis: Redis): Promise<string> {
  const client = redis.client()
  try {
    return JSON.stringify(await Promise.all([client.config('GET', '*'), client.acl('LIST'), client.role()]))
  } finally {
    client.disconnect()
  }
}

async function findPostgres(): Promise<PostgresServer> {
  const given = process.env.OUTRIDER_TEST_POSTGRES_URL
  if (given) return new PostgresServer(given)
  const port = process.env[broker]
  if (port) return new PostgresServer(await ask(Number(port)))
  return new PostgresServer((await ownPostgres()).url())
}

function ownPostgres(): Promise<Postgres> {
  // Nobody stops it, so it need not sync: a test that kills its server starts one, with the defaults of Postgres.
  own ??= startPostgres({ syncs: false, settings: SHARED_BY_MANY })
  return own
}

async function ask(port: number): Promise<string> {
  const answer = await text(connect(port, '127.0.0.1'))
  if (answer.startsWith('postgres')) return answer
  throw new Error(answer)
}

/**
 * Lets the workers of this process ask for its cluster, which starts when the first one does: a run of nothing but
 * pure tests starts none. Returns what ends both. The first project of a run offers it to all of them.
 */
export async function offerPostgres(): Promise<() => Promise<void>> {
  if (process.env[broker]) return async () => {}
  const server = createServer((socket) => {
    socket.on('error', () => {}).resume()
    ownPostgres().then(
      (postgres) => socket.end(postgres.url()),
      (error: Error) => socket.end(`The shared Postgres did not start: ${error.message}`),
    )
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const address = server.address()
  if (address !== null && typeof address === 'object') process.env[broker] = String(address.port)
  return async () => {
    server.close()
    await (await own?.catch(() => undefined))?.remove()
  }
}

/** The logical databases are claimed by a key in each, so that two test files never take the same one. */
async function emptyDatabase(given: string): Promise<FreshRedis> {
  for (let index = 1; index < 16; index++) {
    const url = new URL(given)
    url.pathname = `/${index}`
    const client = redisClient(url.href)
    const claim = "if redis.call('DBSIZE') > 0 then return 0 end redis.call('SET', 'outrider-test', 'claimed') return 1"
    const claimed = await client.eval(claim, 0).finally(() => client.disconnect())
    if (claimed !== 1) continue
    return {
      url: url.href,
      client: (options) => redisClient(url.href, options),
      remove: async () => {
        const last = redisClient(url.href)
        await last.flushdb().finally(() => last.disconnect())
      },
    }
  }
  throw new Error('Expected an empty logical database, 1 to 15, in OUTRIDER_TEST_REDIS_URL, found keys in all of them')
}
