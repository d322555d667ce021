import { ExitCode, OutriderError } from '../base/failure.js'
import { parseRedisUrl } from '../config/redis-url.js'
import type { Config } from '../config/schema.js'
import { EVERY_STREAM } from '../config/trimming.js'
import { streamKey } from '../event/names.js'
import { closeRedis, type RedisClient } from '../redis/client/connect.js'
import { withDeadline } from './deadline.js'
import { assessDurability, tryDurability } from './durability.js'
import type { Finding } from './finding.js'
import { assessDenials, readDenials } from './permissions.js'
import { readNodes, versionOf } from './redis-facts.js'
import { assessNode } from './redis-node.js'

/** The longest that the trial of durability waits: three levels of 2 s each, and something over. */
const TRIAL_MS = 8_000

export interface RedisReport {
  title: string
  findings: Finding[]
}

/** Looks at Redis through a client that is connected, and closes it. Throws an OutriderError where it cannot. */
export async function checkRedis(
  client: RedisClient,
  config: Config,
  streams: string[],
  timeout: number,
): Promise<RedisReport> {
  const url = parseRedisUrl(config.redis.url)
  const address = url.nodes.map(({ host, port }) => `${host}:${port}`).join(', ')
  const place = `Redis at ${address}`
  try {
    const { title, findings } = await withDeadline(timeout, place, look(client, config, streams, address))
    // Pointless where a write is refused anyway, and already said where the file is off.
    if (findings.some(({ level }) => level === 'blocker')) return { title, findings }
    const reached = await withDeadline(TRIAL_MS, place, tryDurability(client, config.durability))
    return { title, findings: [...findings, assessDurability(reached, config.durability)] }
  } catch (error) {
    if (error instanceof OutriderError) throw error
    const lost = (error as Error).name !== 'ReplyError'
    throw new OutriderError(
      lost
        ? `The connection to ${place} broke: ${(error as Error).message}. Check that it runs, and try again.`
        : `${place} could not be checked: ${(error as Error).message}.`,
      { cause: error, exitCode: lost ? ExitCode.unreachable : ExitCode.failed },
    )
  } finally {
    closeRedis(client)
  }
}

async function look(client: RedisClient, config: Config, streams: string[], address: string): Promise<RedisReport> {
  const { mode, username } = parseRedisUrl(config.redis.url)
  const nodes = await readNodes(client)
  const findings = nodes.flatMap((node) => assessNode(node, { durability: config.durability, mode }))
  const user = config.redis.username ?? username ?? 'default'
  const denials = await readDenials(
    client,
    [...new Set([...configuredStreams(config), ...streams])],
    user,
    config.durability,
  )
  const [node = { info: {} }] = nodes
  const { product, version } = versionOf(node.info)
  return {
    title: `${product} ${version} at ${address}, user ${denials.user}`,
    findings: [...findings, ...assessDenials(denials, config.durability, node)],
  }
}

/** Keys of the streams that are configured: the first partition stands for all. */
const configuredStreams = ({ streams }: Config): string[] =>
  Object.entries(streams)
    .filter(([stream]) => stream !== EVERY_STREAM)
    .map(([stream, { partitions }]) => streamKey(stream, partitions === undefined ? undefined : 0))
