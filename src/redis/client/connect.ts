import { once, setMaxListeners } from 'node:events'
import type { ConnectionOptions } from 'node:tls'
import { type RedisOptions as AnyRedisOptions, Cluster, Redis } from 'ioredis'
import { ExitCode, OutriderError } from '../../base/failure.js'
import { readSecret } from '../../base/secret.js'
import { parseRedisUrl, type RedisUrl } from '../../config/redis-url.js'
import type { RedisConfig } from '../../config/schema.js'
import { describeTlsError, readTls } from '../../config/tls.js'

export type RedisClient = Redis | Cluster

type RedisOptions = Omit<AnyRedisOptions, 'replyMapping'>

/**
 * Connects to a server, through sentinels, or to a cluster. Resolves once commands are answered.
 *
 * The client never connects again by itself, never queues and never re-sends: an outcome that is not known must be seen
 * by the caller, who decides what may be sent twice. It has an `error` listener, so that a lost connection does not end
 * the process; `end` tells of it. Throws an OutriderError with what ioredis said as its cause.
 */
export async function connectRedis(
  config: RedisConfig,
  name: string,
  commandTimeout = COMMAND_TIMEOUT,
): Promise<RedisClient> {
  const url = parseRedisUrl(config.url)
  return connect(await createClient(config, url, name, commandTimeout), url, config.connectTimeout)
}

/** The same with the settings of another client, of which nothing else is used. */
export function connectLike(other: RedisClient, name: string): Promise<RedisClient> {
  const timeout =
    (other instanceof Cluster ? other.options.redisOptions : other.options)?.connectTimeout ?? CONNECT_TIMEOUT
  const common = { ...COMMON, ...PLAIN, connectionName: nameOf(name), connectTimeout: timeout }
  if (other instanceof Cluster) {
    const { redisOptions } = other.options
    const own = { ...redisOptions, ...common } as RedisOptions
    const plain = { ...CLUSTER, keyPrefix: '', scaleReads: 'master' } as const
    const client = other.duplicate([], { ...plain, slotsRefreshTimeout: timeout, redisOptions: own })
    return connect(
      client,
      { mode: 'cluster', nodes: [{ host: 'of the given client', port: 0 }], db: 0, tls: false },
      timeout,
    )
  }
  const { host = 'localhost', port = 6379, db = 0, sentinels, name: master } = other.options
  const [first, ...more] = (sentinels ?? [{ host, port }]).map((node) => ({
    host: node.host ?? 'localhost',
    port: node.port ?? 26379,
  }))
  const url: RedisUrl = {
    mode: sentinels ? 'sentinel' : 'standalone',
    nodes: [first as RedisUrl['nodes'][0], ...more],
    ...(master === undefined ? {} : { name: master }),
    db,
    tls: other.options.tls !== undefined,
  }
  return connect(
    new Redis({ ...other.options, ...common, sentinelRetryStrategy: () => null } as RedisOptions),
    url,
    timeout,
  )
}

async function connect(client: RedisClient, url: RedisUrl, timeout: number): Promise<RedisClient> {
  let reason: Error | undefined
  let broken = false
  const note = (error: Error) => {
    if (!VAGUE.test(rootOf(error).message)) reason ??= rootOf(error)
  }
  client.on('error', (error: Error) => {
    broken = true
    note(error)
  })
  // Where ioredis says why a sentinel or a node was of no use; what `connect` throws says only that none was.
  client.on('sentinelError', note)
  client.on('node error', note)
  client.on('+node', catchAsking)

  let timer: NodeJS.Timeout | undefined
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(Object.assign(new Error('connect ETIMEDOUT'), { code: 'ETIMEDOUT' })), timeout)
  })
  try {
    // ioredis bounds only the TCP connection: a frozen server accepts, and then never answers.
    await Promise.race([client.connect().then(() => probe(client)), deadline])
    // A SELECT that was refused ends nothing by itself; the commands would go to database 0.
    if (broken) throw reason ?? new Error('the connection broke')
    await connectsToAll(client)
  } catch (error) {
    closeRedis(client)
    throw connectFailure(reason ?? (await hiddenReason(client, url)) ?? error, url, timeout)
  } finally {
    clearTimeout(timer)
  }
  return client
}

/**
 * ioredis sends ASKING before a command whose slot moves, and catches nothing of it: where the connection ends before the reply, that
 * would end the process. Its outcome shows in that of the command.
 */
function catchAsking(node: Redis): void {
  const asking = node.asking.bind(node) as () => Promise<'OK'>
  node.asking = () => {
    const asked = asking()
    asked.catch(() => {})
    return asked
  }
}

/** Cuts the connection at once, whether the server answers or not; what was in flight is rejected. */
export function closeRedis(client: RedisClient): void {
  const sockets = client instanceof Cluster ? client.nodes().map(socketOf) : [socketOf(client)]
  client.disconnect()
  for (const socket of sockets) socket?.destroy()
}

const socketOf = (redis: Redis) => (redis as { stream?: { destroy(): void } }).stream

/**
 * LOADING and MASTERDOWN are answered to a PING as to any other command; a PING that is not permitted was answered, too. Of a cluster
 * one node is enough: which of the others answer is seen by the command that needs them.
 */
async function probe(client: RedisClient): Promise<void> {
  const nodes = client instanceof Cluster ? client.nodes('master') : [client]
  const pings = nodes.map((node) =>
    node.ping().catch((error: Error) => {
      if (!error.message.startsWith('NOPERM')) throw error
    }),
  )
  await Promise.any(pings).catch(({ errors }: AggregateError) => {
    throw errors[0] ?? new Error('None of startup nodes is available')
  })
}

/**
 * ioredis refuses a command to a node that is still connecting. One that is away is not waited for, and one that is silent not for long:
 * the command that needs it says so.
 */
async function connectsToAll(client: RedisClient): Promise<void> {
  if (!(client instanceof Cluster)) return
  const signal = AbortSignal.timeout(OTHER_NODES_TIMEOUT)
  // Two for each node.
  setMaxListeners(0, signal)
  const connecting = client.nodes('master').filter(({ status }) => status === 'connecting' || status === 'connect')
  await Promise.allSettled(
    connecting.map((node) => Promise.race([once(node, 'ready', { signal }), once(node, 'end', { signal })])),
  )
}

async function createClient(
  config: RedisConfig,
  url: RedisUrl,
  name: string,
  commandTimeout: number,
): Promise<RedisClient> {
  const tls = config.tls || url.tls ? await readTls(config.tls ?? {}) : undefined
  const username = config.username ?? url.username
  const password = config.password ? await readSecret(config.password) : url.password
  const common: RedisOptions = {
    ...COMMON,
    commandTimeout,
    connectionName: nameOf(name),
    connectTimeout: config.connectTimeout,
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    ...(tls === undefined ? {} : { tls }),
  }
  if (url.mode === 'standalone') return new Redis({ ...common, ...url.nodes[0], db: url.db })
  if (url.mode === 'sentinel') return new Redis({ ...common, db: url.db, ...(await sentinelOptions(config, url, tls)) })
  return new Cluster(url.nodes, {
    ...CLUSTER,
    slotsRefreshTimeout: config.connectTimeout,
    redisOptions: common,
    // Certificates bear names, and ioredis would dial the address that it looked up itself.
    ...(tls === undefined ? {} : { dnsLookup: (host, callback) => callback(null, host) }),
  })
}

/** A space or anything beyond ASCII would be refused, and the connection left without a name. */
const nameOf = (name: string): string => name.replace(/[^!-~]+/g, '-')

/** For a client that says nothing of it, in milliseconds. */
const CONNECT_TIMEOUT = 5_000

const CLUSTER = {
  lazyConnect: true,
  enableOfflineQueue: false,
  // A failed check would leave `connect` pending for ever; a cluster that is down says so to the first command.
  enableReadyCheck: false,
  clusterRetryStrategy: () => null,
  // Zero: what was in flight on a closed connection is rejected, not sent again to another node.
  retryDelayOnFailover: 0,
  retryDelayOnClusterDown: 0,
} as const

/** No command waits for ever, in milliseconds: a server that hangs, or a network that swallows replies, is found out. */
const COMMAND_TIMEOUT = 10_000

/** For the nodes of a cluster that connect when the first has answered, in milliseconds: a busy machine may take seconds. */
const OTHER_NODES_TIMEOUT = 5_000

const COMMON = {
  lazyConnect: true,
  enableOfflineQueue: false,
  maxRetriesPerRequest: 0,
  commandTimeout: COMMAND_TIMEOUT,
  retryStrategy: null,
  // `probe` does it, and its answer reaches the caller: ioredis would keep asking a server that is loading.
  enableReadyCheck: false,
  // Replies look alike on every server from Redis 6.2 to Valkey 9, and AUTH needs no permission, unlike HELLO.
  protocol: 2,
  disableClientInfo: true,
  keepAlive: 10_000,
} satisfies RedisOptions

/**
 * What another client may have set otherwise. A prefix would change keys that others have to find; the rest would hide an
 * error reply, change what a reply looks like, or end a connection because it is quiet.
 */
const PLAIN = {
  keyPrefix: '',
  reconnectOnError: null,
  stringNumbers: false,
  replyMapping: 'legacy',
  readOnly: false,
  socketTimeout: undefined,
} as const

async function sentinelOptions(
  config: RedisConfig,
  url: RedisUrl,
  tls: ConnectionOptions | undefined,
): Promise<RedisOptions> {
  const password = config.sentinelPassword && (await readSecret(config.sentinelPassword))
  return {
    sentinels: url.nodes,
    name: url.name as string,
    sentinelRetryStrategy: () => null,
    sentinelCommandTimeout: config.connectTimeout,
    ...(config.sentinelUsername === undefined ? {} : { sentinelUsername: config.sentinelUsername }),
    ...(password === undefined ? {} : { sentinelPassword: password }),
    ...(tls === undefined ? {} : { enableTLSForSentinelMode: true, sentinelTLS: tls }),
  }
}

/** Sentinels' and clusters' clients keep to themselves why they could not connect, so the first server is asked without them. */
async function hiddenReason(client: RedisClient, url: RedisUrl): Promise<Error | undefined> {
  if (url.mode === 'standalone') return undefined
  const options = client instanceof Cluster ? client.options.redisOptions : client.options
  const { connectTimeout, tls } = options ?? {}
  const node = new Redis({ ...COMMON, ...url.nodes[0], ...(connectTimeout && { connectTimeout }), ...(tls && { tls }) })
  let reason: Error | undefined
  node.on('error', (error: Error) => {
    reason ??= error
  })
  const timer = setTimeout(() => closeRedis(node), connectTimeout)
  await node.connect().catch(() => {})
  clearTimeout(timer)
  closeRedis(node)
  return reason
}

/** Says that it did not work, and not why. */
const VAGUE = /connection is closed|all sentinels are unreachable|failed to refresh slots cache|none of startup nodes/i

/** The error behind one that only says that nothing worked. */
function rootOf(error: Error): Error {
  const last = (error as { lastNodeError?: unknown }).lastNodeError
  return last instanceof Error ? rootOf(last) : error
}

function connectFailure(error: unknown, url: RedisUrl, timeout: number): OutriderError {
  if (error instanceof OutriderError) return error
  const { code, message } = error as { code?: string; message: string }
  const [exitCode, text] = explain(code, message, url, timeout)
  return new OutriderError(`${placeOf(url)} ${text}`, { exitCode, cause: error })
}

function placeOf(url: RedisUrl): string {
  const nodes = url.nodes.map((node) =>
    node.host.includes(':') ? `[${node.host}]:${node.port}` : `${node.host}:${node.port}`,
  )
  if (url.mode === 'standalone') return `Redis at ${nodes[0]}`
  if (url.mode === 'cluster') return `The Redis cluster at ${nodes.join(', ')}`
  return `Redis "${url.name}" behind the sentinels at ${nodes.join(', ')}`
}

function explain(code: string | undefined, message: string, url: RedisUrl, timeout: number): [ExitCode, string] {
  const { failed, unreachable } = ExitCode
  const tls = describeTlsError(code)
  if (tls !== undefined) return [unreachable, `was reached, but ${tls}.`]
  if (/WRONGPASS|invalid password|invalid username/i.test(message)) {
    return [
      failed,
      'refused the user name or the password (WRONGPASS). Check both, or the file the password is read from.',
    ]
  }
  if (/NOAUTH/.test(message))
    return [failed, 'requires a password (NOAUTH). Set OUTRIDER_REDIS_PASSWORD, or put it into the URL.']
  if (/NOPERM/.test(message))
    return [failed, `does not permit what connecting needs (${message}). Check the ACL of the user.`]
  if (/^LOADING/.test(message)) return [unreachable, 'is loading its data (LOADING). Wait until it has started.']
  if (/^MASTERDOWN/.test(message)) {
    return [
      unreachable,
      'is a replica that has lost its primary (MASTERDOWN). Wait until the failover is over; if none is under way, correct the URL: it must lead to the primary.',
    ]
  }
  if (/DB index is out of range|SELECT is not allowed/i.test(message)) {
    return [failed, `has no database ${url.db}. Check the number at the end of the URL.`]
  }
  if (/ENOTFOUND|EAI_AGAIN/.test(`${code} ${message}`)) {
    return [unreachable, 'was not found: the name does not resolve (ENOTFOUND). Check the host in the URL.']
  }
  if (/ECONNREFUSED/.test(`${code} ${message}`)) {
    return [
      unreachable,
      'refused the connection (ECONNREFUSED). Check that it is running, and the host and port in the URL.',
    ]
  }
  if (code === 'ETIMEDOUT' || /timed? ?out/i.test(message)) {
    return [
      unreachable,
      `did not answer within ${timeout} ms. Check the host and port in the URL, and firewalls in between.`,
    ]
  }
  if (url.mode === 'sentinel' && /invalid reply/.test(message)) {
    return [unreachable, `is not known to them. Check the name behind the host in the URL.`]
  }
  if (url.mode === 'cluster' && /cluster support disabled/i.test(message)) {
    return [failed, 'is no cluster. Write redis:// instead of redis+cluster://.']
  }
  return [
    unreachable,
    `could not be used: ${message}. Check that host and port are those of Redis, and whether it requires TLS.`,
  ]
}
