import { Cluster, type Redis } from 'ioredis'
import { parseRedisUrl } from '../../config/redis-url.js'
import type { RedisConfig } from '../../config/schema.js'
import { connectLike, connectRedis, type RedisClient } from '../../redis/client/connect.js'
import { durationOf } from '../duration.js'
import type { ConsumerOptions, RedisOptions } from '../options.js'

const CONNECT_TIMEOUT = 5_000

/** How to make a connection of the consumer's own. Throws a TypeError on what names no Redis; holds nothing of a password. */
export function connectorOf(redis: ConsumerOptions['redis'], name: string): () => Promise<RedisClient> {
  if (typeof redis !== 'object' || redis === null) {
    const config = configOf({ url: redis })
    return () => connectRedis(config, name)
  }
  if (isIoredis(redis)) {
    if (redis.isCluster && !(redis instanceof Cluster)) {
      throw new TypeError(
        'Expected a Cluster of the ioredis that outrider depends on, found one of another copy. Give its URL: redis+cluster://….',
      )
    }
    return () => connectLike(redis, name)
  }
  const foreign = foreignClientOf(redis)
  if (foreign) {
    throw new TypeError(
      `Expected redis as a URL, options or a client of ioredis, found ${foreign}. Give its URL: redis://…, or ` +
        'redis+cluster://… for a cluster; the consumer makes connections of its own.',
    )
  }
  const config = configOf(redis)
  return () => connectRedis(config, name)
}

/** Of this copy or another, such as ioredis 5: each has a status, and says whether it is a cluster. */
const isIoredis = (redis: object): redis is Redis | Cluster =>
  'status' in redis && typeof redis.status === 'string' && 'isCluster' in redis && typeof redis.isCluster === 'boolean'

/** What a client of another library is, whose settings cannot be read; undefined for plain options. */
function foreignClientOf(redis: object): string | undefined {
  if ('isOpen' in redis) return 'a client of node-redis (the package redis)'
  const prototype: unknown = Object.getPrototypeOf(redis)
  if (prototype === null || prototype === Object.prototype) return undefined
  return `an object of the class ${redis.constructor?.name || 'without a name'}`
}

function configOf(options: RedisOptions): RedisConfig {
  const { url, username, password, passwordFile, tls, connectTimeout } = options
  if (url === undefined || url === '') {
    throw new TypeError(
      `Expected redis as a URL such as redis://localhost:6379, found ${url === '' ? 'an empty text' : 'undefined'}. Where it comes ` +
        'from a variable of the environment, such as process.env.REDIS_URL, set that variable.',
    )
  }
  try {
    parseRedisUrl(url)
  } catch (error) {
    throw new TypeError(
      `Expected redis as ${(error as Error).message}, or as a client of ioredis, found something else.`,
    )
  }
  const secret =
    passwordFile !== undefined ? { file: passwordFile } : password !== undefined ? { value: password } : undefined
  return {
    url,
    ...(username === undefined ? {} : { username }),
    ...(secret === undefined ? {} : { password: secret }),
    ...(tls === undefined ? {} : { tls }),
    connectTimeout: connectTimeout === undefined ? CONNECT_TIMEOUT : durationOf('redis.connectTimeout', connectTimeout),
  }
}
