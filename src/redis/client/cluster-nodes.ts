import { Cluster, Command, type Redis } from 'ioredis'
import type { RedisClient } from './connect.js'

/** All connections that take this client's writes. */
export const primaries = (client: RedisClient): Redis[] =>
  client instanceof Cluster ? client.nodes('master') : [client]

/** The addresses of all primaries that have slots, with the connection to each; undefined where there is none. */
export function primariesByName(client: Cluster): Map<string, Redis | undefined> {
  const connected = new Map(client.nodes('master').map((node) => [nameOf(node), node]))
  const names = new Set(client.slots.flatMap((nodes) => nodes?.[0] ?? []))
  return new Map([...names].sort().map((name) => [name, connected.get(name)]))
}

/** The connection to the primary of this key; undefined where there is none now. A slot that moves may have the key elsewhere. */
export function primaryOf(client: RedisClient, key: string): Redis | undefined {
  if (!(client instanceof Cluster)) return client
  const name = primaryNameOf(client, key)
  return client.nodes('master').find((node) => nameOf(node) === name)
}

/** The address of the primary of this key, connected or not; undefined where no node has its slot. */
export const primaryNameOf = (client: Cluster, key: string): string | undefined =>
  client.slots[new Command('get', [key]).getSlot() ?? -1]?.[0]

/** Where a cluster sends the command that it refused with this error: the key's slot is moving, and the key is there already. */
export function askedNode(client: RedisClient, error: unknown): Redis | undefined {
  const [, name] = /^ASK \d+ (\S+)$/.exec((error as Error).message) ?? []
  if (name === undefined || !(client instanceof Cluster)) return undefined
  return client.nodes('master').find((node) => nameOf(node) === name)
}

const nameOf = ({ options }: Redis): string => `${options.host}:${options.port}`
