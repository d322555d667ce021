import { randomUUID } from 'node:crypto'
import { Cluster, type Redis } from 'ioredis'
import type { Config } from '../config/schema.js'
import { aliveKey, deadKey, headKey, partitionsKey, policyKey, waitingKey } from '../event/names.js'
import { ZERO_POSITION } from '../event/position.js'
import type { RedisClient } from '../redis/client/connect.js'
import { roleOf } from '../redis/client/primary.js'
import { append, batchArguments, loadAppend } from '../redis/streams/append.js'
import { loadBarrier } from '../redis/streams/durability.js'
import { blocker, type Finding, warning } from './finding.js'
import { lacksConfigFile, type NodeFacts, STARTED_WITH } from './redis-facts.js'

/** What the user of the relay may not do. */
export interface Denials {
  user: string
  /** As ACL SETUSER writes them: `xadd`, `script|load`. */
  commands: string[]
  /** Patterns. */
  keys: string[]
  /** Scripts do not run at all, and why. */
  scripting: string | undefined
}

interface Trial {
  command: string
  /** What to allow where the key is denied. */
  pattern?: string
  run(): Promise<unknown>
}

/**
 * Tries every command that the relay sends, with arguments that Redis refuses after it has looked at the permissions: the
 * answer tells of both command and key, and nothing is written. So it works on any version, and also where the user may
 * not ask ACL DRYRUN.
 */
export async function readDenials(
  client: RedisClient,
  streams: string[],
  configured: string,
  durability: Config['durability'],
): Promise<Denials> {
  const commands = new Set<string>()
  const keys = new Set<string>()
  let scripting: string | undefined
  for (const { command, pattern, run } of trials(client, streams, durability)) {
    const refusal = await refusalOf(run)
    // What is denied to a script is denied to the command itself, which was tried before.
    if (refusal === undefined || /in script|executing the script/i.test(refusal)) continue
    if (/NOPERM|no permissions/i.test(refusal)) {
      if (pattern !== undefined && /\bkeys?\b/i.test(refusal)) keys.add(pattern)
      else commands.add(command)
    } else if (
      /^evalsha$|^script/.test(command) &&
      /unknown|not (allowed|supported|permitted)|disabled/i.test(refusal)
    ) {
      scripting ??= refusal
    }
  }
  return { user: await whoAmI(client, configured), commands: [...commands], keys: [...keys], scripting }
}

function* trials(client: RedisClient, streams: string[], durability: Config['durability']): Generator<Trial> {
  const node = client instanceof Cluster ? (client.nodes('master')[0] as Redis) : client
  const known = streams.length > 0
  yield { command: 'script|load', run: () => Promise.all([loadAppend(client), loadBarrier(client)]) }
  for (const stream of known ? streams : [`outrider:${CHECK}:stream`]) {
    const pattern = known ? patternOf(stream) : OWN
    const own = known ? headKey(pattern, '*') : OWN
    const head = headKey(known ? stream : 'check', randomUUID())
    yield { command: 'hmget', pattern: own, run: () => client.hmget(head, 'position') }
    // An odd number of fields and values.
    yield { command: 'hset', pattern: own, run: () => client.call('HSET', head, 'position', '', 'event') }
    // A head that no one has: a relay removes its own where the stream that it stood beside is gone.
    yield { command: 'del', run: () => client.del(head) }
    if (known && PARTITION.test(stream)) yield settingOf(client, partitionsKey(stream.replace(PARTITION, '')))
    yield { command: 'xinfo|stream', pattern, run: () => client.call('XINFO', 'STREAM', stream) }
    // An entry may not have the id zero.
    // Only a repair reads streams.
    yield { command: 'xrange', pattern, run: () => client.xrange(stream, '0-0', '0-0') }
    yield { command: 'xadd', pattern, run: () => client.call('XADD', stream, '0-0', 'a', 'b') }
    yield* trimming(client, stream, known ? patternOf(stream) : undefined)
    // No number of samples.
    yield { command: SIZE, pattern, run: () => client.call('MEMORY', 'USAGE', stream, 'SAMPLES', 'x') }
  }
  yield { command: 'time', run: () => client.time() }
  yield settingOf(client, partitionsKey('check'))
  // The lineage is not known before setup.
  yield settingOf(client, aliveKey(randomUUID()))
  yield { command: 'role', run: () => roleOf(node) }
  if (durability !== 'memory') {
    yield { command: 'info', run: () => node.info('replication') }
    yield { command: 'wait', run: () => node.wait(0, 1) }
    yield { command: 'waitaof', run: () => node.call('WAITAOF', '0', '0', '1') }
  }
  yield { command: 'evalsha', pattern: OWN, run: () => probe(client) }
}

/** What only trimming needs. `pattern`: that the stream's key belongs to; undefined where no stream is known. */
function* trimming(client: RedisClient, stream: string, pattern: string | undefined): Generator<Trial> {
  // A length is no word, and a group has a name.
  yield { command: 'xtrim', pattern: pattern ?? OWN, run: () => client.call('XTRIM', stream, 'MAXLEN', 'x') }
  yield { command: 'xpending', pattern: pattern ?? OWN, run: () => client.call('XPENDING', stream, '') }
  yield { command: 'xinfo|groups', pattern: pattern ?? OWN, run: () => client.call('XINFO', 'GROUPS', stream) }
  const tag = pattern === undefined ? 'check' : stream
  const own = (key: string) => (pattern === undefined ? OWN : key)
  const policies = own(policyKey(pattern ?? ''))
  yield { command: 'hgetall', pattern: policies, run: () => client.hgetall(policyKey(tag)) }
  yield { command: 'hdel', pattern: policies, run: () => client.hdel(policyKey(tag), '') }
  for (const beside of [deadKey, waitingKey]) {
    const moved = own(beside(pattern ?? '', '*'))
    yield { command: 'xrange', pattern: moved, run: () => client.xrange(beside(tag, 'check'), '0-0', '0-0') }
  }
}

/** A key's hash tag where no stream is known yet. */
const CHECK = '{check}'
const OWN = 'outrider:*'

/** No time to live may be zero. */
const settingOf = (client: RedisClient, key: string): Trial => ({
  command: 'set',
  run: () => client.call('SET', key, '1', 'PX', '0'),
})

/** append.lua without events, at a head that does not exist, reads and writes nothing. */
async function probe(client: RedisClient): Promise<void> {
  const args = batchArguments('outrider:{check}:stream', randomUUID(), randomUUID())
  // The head in the hash slot of the stream, as it is for any other.
  args[3] = 'outrider:{check}:head'
  const reply = await append(client, args, ZERO_POSITION)
  if (reply.status !== 'OK') throw Object.assign(new Error(reply.error), { name: 'ReplyError' })
}

const PARTITION = /:\d+$/

/** One pattern for all partitions. */
const patternOf = (stream: string): string => stream.replace(PARTITION, ':*')

async function refusalOf(run: () => Promise<unknown>): Promise<string | undefined> {
  try {
    await run()
    return undefined
  } catch (error) {
    if ((error as Error).name !== 'ReplyError') throw error
    return (error as Error).message
  }
}

async function whoAmI(client: RedisClient, configured: string): Promise<string> {
  try {
    return String(await client.call('ACL', 'WHOAMI'))
  } catch (error) {
    if ((error as Error).name !== 'ReplyError') throw error
    return configured
  }
}

/** For a metric alone. */
const SIZE = 'memory|usage'
const FOR_DURABILITY = new Set(['info', 'wait', 'waitaof'])
const FOR_TRIMMING = new Set(['xtrim', 'xpending', 'xinfo|groups', 'hgetall', 'hdel', 'time'])
/** Of what consumers have moved out of a stream: the relay only reads it. */
const MOVED = /:(?:dead|waiting):/
const isForTrimming = (name: string): boolean => FOR_TRIMMING.has(name) || MOVED.test(name) || name.endsWith(':policy')

/** On a stream's own key they would be its end, so they are allowed for nothing else: in a selector. */
const APART: Record<string, string> = {
  set: '(+set ~outrider:{*}:partitions ~outrider:{*}:alive ~outrider:{trial}:* ~outrider:{check}:*)',
  del: '(+del ~outrider:{*}:head:* ~outrider:{trial}:* ~outrider:{check}:*)',
}

const permitKey = (key: string): string => (MOVED.test(key) ? `(+evalsha +xinfo|stream +xrange ~${key})` : `~${key}`)

/** Pure. */
export function assessDenials(
  { user, commands, keys, scripting }: Denials,
  durability: Config['durability'],
  node: Pick<NodeFacts, 'info'>,
): Finding[] {
  const findings: Finding[] = []
  if (commands.length > 0 || keys.length > 0) {
    const lacks = [...commands, ...keys.map((key) => `keys ${key}`)]
    const ordered = keys.toSorted((one, other) => Number(isForTrimming(one)) - Number(isForTrimming(other)))
    // `auto` continues with a weaker level.
    const isForDurability = (name: string) => durability === 'auto' && FOR_DURABILITY.has(name)
    const isBearable = (name: string) =>
      name === 'xrange' || name === SIZE || isForDurability(name) || isForTrimming(name)
    const bearable = keys.every(isForTrimming) && commands.every(isBearable)
    const lost = [
      commands.some(isForDurability) && 'wait until events are safe',
      commands.includes('xrange') && 'repair a gap: it would halt',
      commands.includes(SIZE) && 'tell how large streams are',
      [...commands, ...keys].some(isForTrimming) && 'trim streams: they grow',
    ].filter((text) => typeof text === 'string')
    findings.push(
      (bearable ? warning : blocker)({
        id: 'redis-permission',
        is: `user ${user} may not use ${lacks.join(', ')}`,
        expected: 'every command of the relay, on its streams and on outrider:*',
        why: bearable ? `the relay cannot ${lost.join(', nor ')}` : 'the relay could not publish',
        fix: [
          {
            how: `In redis-cli, as an administrator; then ${
              lacksConfigFile(node)
                ? `ACL SAVE where Redis has an aclfile, or the same rights for the user in ${STARTED_WITH}`
                : 'ACL SAVE or CONFIG REWRITE, whichever you use'
            }`,
            text: [
              ...['ACL SETUSER', user, ...ordered.map(permitKey)],
              ...commands.map((name) => APART[name] ?? `+${name}`),
            ].join(' '),
          },
        ],
      }),
    )
  }
  if (scripting !== undefined) {
    findings.push(
      blocker({
        id: 'redis-scripting',
        is: `scripts do not run: ${scripting}`,
        expected: 'SCRIPT LOAD and EVALSHA',
        why: 'events are appended by a script, so that a retry adds no copy',
        fix: [
          {
            how: 'Use a server or a plan that offers Lua scripts',
            text: 'https://redis.io/docs/latest/commands/evalsha/',
          },
        ],
      }),
    )
  }
  return findings
}
