import { Cluster, type Redis } from 'ioredis'
import { primariesByName } from '../redis/client/cluster-nodes.js'
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

/** Of a cluster all primaries. Rejects where one does not answer. */
export async function readNodes(client: RedisClient): Promise<NodeFacts[]> {
  const { nodes, away } = await readReachedNodes(client)
  const [first] = away
  if (first) throw first.error
  return nodes
}

/** A primary of a cluster that does not answer. */
export interface AwayNode {
  name: string
  error: Error
}

/** The same of those that answer. Rejects where none does. */
export async function readReachedNodes(client: RedisClient): Promise<{ nodes: NodeFacts[]; away: AwayNode[] }> {
  if (!(client instanceof Cluster)) return { nodes: [await readNode(client, '')], away: [] }
  const answers = await Promise.all([...primariesByName(client)].map(([name, node]) => askNode(name, node)))
  const nodes = answers.filter((answer) => 'info' in answer)
  const away = answers.filter((answer) => 'error' in answer)
  const [first] = away
  if (first && nodes.length === 0) throw first.error
  return { nodes, away }
}

async function askNode(name: string, node: Redis | undefined): Promise<NodeFacts | AwayNode> {
  if (node === undefined) return { name, error: new Error('there is no connection to it') }
  try {
    return await readNode(node, name)
  } catch (error) {
    if ((error as Error).name === 'ReplyError') throw error
    return { name, error: error as Error }
  }
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
