import { readFileSync } from 'node:fs'
import type { Redis as Client } from 'ioredis'
import { expect, onTestFinished } from 'vitest'
import { type Redis, type RedisVersion, redisVersion, startRedis } from '../../testkit/services/index.js'

/** The lines of docs/redis-acl.md, and what can be seen of what a user did under one. */

export type Role = 'viewer' | 'relay' | 'consumer' | 'ordered' | 'operator' | 'ping' | 'audit'

export const VERSIONS: readonly RedisVersion[] = ['7.0', '8.0', 'valkey-8.1']

const PASSWORD = 'change-me'
const page = readFileSync(new URL('../../docs/redis-acl.md', import.meta.url), 'utf8')

/** The words of the role's statement, ACL and SETUSER first. */
function statement(role: Role): string[] {
  const block = new RegExp(`^\`\`\`acl ${role}\n(.*?)^\`\`\``, 'ms').exec(page)?.[1]
  if (block === undefined) throw new Error(`Expected a block "acl ${role}" in docs/redis-acl.md, found none.`)
  return block.split(/\s+/).filter((word) => word !== '')
}

/** Commands that the role is allowed, sorted. */
export const granted = (...roles: Role[]): string[] =>
  [...new Set(roles.flatMap(statement).flatMap((word) => /^\(?\+([a-z|-]+)/.exec(word)?.[1] ?? []))].sort()

/** Creates the user, but for commands that this server does not have. */
export async function grant(admin: Client, role: Role): Promise<void> {
  const words = statement(role)
  const waitAof = await hasWaitAof(admin)
  const known = words.filter((word) => waitAof || word !== '+waitaof')
  await admin.call(known[0] as string, ...known.slice(1))
}

/** From Redis 7.2 on. */
export const hasWaitAof = async (client: Client): Promise<boolean> =>
  ((await client.call('COMMAND', 'INFO', 'WAITAOF')) as unknown[])[0] !== null

export interface Guarded {
  server: Redis
  /** The user `default`, who may do everything. */
  admin: Client
  /** What the role's user gives as its URL. */
  url(role: Role): string
  /** A connection of the role's user, unnamed. */
  as(role: Role): Client
  /** What was done, and refused, is forgotten. */
  forget(): Promise<void>
  /** Commands that were called since, at the top or in a script; `admin` must have called none of them. */
  called(): Promise<string[]>
  /** What was refused since: the commands, or keys. */
  refused(): Promise<string[]>
}

/** A Redis with these users. Ends the test where this version cannot be had. */
export async function startGuarded(
  context: { skip(note?: string): void },
  version: RedisVersion,
  roles: readonly Role[],
  settings: Record<string, string> = {},
): Promise<Guarded> {
  await redisVersion(context, version)
  const server = await startRedis({ version, settings: { maxmemory: '256mb', ...settings } })
  onTestFinished(() => server.remove())
  const admin = server.client()
  onTestFinished(() => admin.disconnect())
  for (const role of roles) await grant(admin, role)
  const url = (role: Role) => server.url.replace('redis://', `redis://${statement(role)[2]}:${PASSWORD}@`)
  return {
    ...{ server, admin, url },
    as(role) {
      const [username, password] = [statement(role)[2] as string, PASSWORD]
      const client = server.client({ username, password, enableReadyCheck: false })
      onTestFinished(() => client.disconnect())
      return client
    },
    async forget() {
      await admin.call('ACL', 'LOG', 'RESET')
      await admin.config('RESETSTAT')
    },
    async called() {
      const stats = await admin.info('commandstats')
      const found = [...stats.matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)]
      return found
        .flatMap(([, name, calls]) => (calls === '0' || OTHERS.has(name as string) ? [] : [name as string]))
        .sort()
    },
    async refused() {
      const entries = (await admin.call('ACL', 'LOG', '128')) as unknown[][]
      const objects = entries.map((entry) => String(entry[entry.indexOf('object') + 1]))
      return [...new Set(objects)].sort()
    },
  }
}

/** Of replicas, of the tests themselves, and what needs no permission. */
const OTHERS = new Set(['replconf', 'psync', 'config|resetstat', 'acl|log', 'unlink', 'auth'])

/** One command and its arguments, as a person writes them. */
export type Act = string

/** Expects each to be refused for want of permission, at the top and, where it can stand there, in a script. */
export async function expectRefused(client: Client, acts: readonly Act[]): Promise<void> {
  for (const act of acts) {
    const [name, ...values] = act.split(' ')
    const answer = await client.call(name as string, ...values).catch((error: Error) => error.message)
    expect([act, answer]).toEqual([act, expect.stringMatching(/^NOPERM/)])
  }
}

/** What a script could smuggle through: whoever may call EVALSHA may do no more in it than outside. */
export async function expectRefusedInScript(client: Client, key: string, acts: readonly Act[]): Promise<void> {
  for (const act of acts) {
    const words = act.split(' ').map((word) => `'${word}'`)
    const sha = String(await client.script('LOAD', `return redis.call(${words.join(', ')})`))
    const answer = await client.evalsha(sha, 1, key).catch((error: Error) => error.message)
    expect([act, answer]).toEqual([
      act,
      expect.stringMatching(/ACL failure in script|can't (run|access)|not allowed from script/),
    ])
  }
}
