import { Cluster, type Redis } from 'ioredis'
import type { RedisClient } from '../redis/client/connect.js'

/** One node of Redis that holds streams, as it describes itself. */
export interface NodeFacts {
  /** Empty where there is only one. */
  name: string
  /** What INFO says; empty where it is not permitted. */
  info: Readonly<Record<string, string>>
  /** `gone`: the service has no CONFIG, so its settings are changed elsewhere. */
  config: 'usable' | 'denied' | 'gone'
  /** The save points of RDB; undefined where they cannot be read. */
  save: string | undefined
}

export function readNodes(client: RedisClient): Promise<NodeFacts[]> {
  if (!(client instanceof Cluster)) return Promise.all([readNode(client, '')])
  return Promise.all(client.nodes('master').map((node) => readNode(node, `${node.options.host}:${node.options.port}`)))
}

async function readNode(node: Redis, name: string): Promise<NodeFacts> {
  // Works where CONFIG is blocked, and tells of everything but appendfsync and the save points.
  const info = await node.info().catch((error: Error) => {
    if (/NOPERM|unknown command/i.test(error.message)) return ''
    throw error
  })
  const facts = { name, info: parseInfo(info) }
  try {
    const [, save] = (await node.call('CONFIG', 'GET', 'save')) as string[]
    return { ...facts, config: 'usable', save }
  } catch (error) {
    if ((error as Error).name !== 'ReplyError') throw error
    const gone = /unknown (sub)?command/i.test((error as Error).message)
    return { ...facts, config: gone ? 'gone' : 'denied', save: undefined }
  }
}

function parseInfo(text: string): Record<string, string> {
  const info: Record<string, string> = {}
  for (const line of text.split(/\r?\n/)) {
    const colon = line.indexOf(':')
    if (colon > 0 && !line.startsWith('#')) info[line.slice(0, colon)] = line.slice(colon + 1)
  }
  return info
}

/** `Redis 8.0.2` or `Valkey 8.1.1`, which also bears the version of Redis that it is compatible with. */
export function versionOf(info: NodeFacts['info']): { product: string; version: string } {
  return info.valkey_version === undefined
    ? { product: 'Redis', version: info.redis_version ?? 'unknown' }
    : { product: 'Valkey', version: info.valkey_version }
}

/** Redis says that it was started without a configuration file, so CONFIG REWRITE fails. */
export const lacksConfigFile = ({ info }: Pick<NodeFacts, 'info'>): boolean => info.config_file === ''

/** Where the settings of such a Redis are kept. */
export const STARTED_WITH = 'the arguments, container configuration or Helm values that start Redis'
