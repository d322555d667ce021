import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Cluster, Command, type Redis } from 'ioredis'
import type { RedisClient } from '../client/connect.js'

/** Sends a command with its arguments as they are: flat, and text. */
export function send(client: RedisClient, name: string, args: string[]): Promise<unknown> {
  const command = new Command(name, [], { replyEncoding: 'utf8' })
  // Given to the constructor, they would be copied one by one: a seventh of all the CPU that a batch costs.
  command.args = args
  client.sendCommand(command)
  return command.promise
}

/** A command that was encoded before: ioredis keeps its place among the others, its reply and its node. */
class EncodedCommand extends Command {
  readonly #encoded: Buffer

  /** `args`: as far as the client looks at them, to find the node. */
  constructor(name: string, args: readonly string[], encoded: Buffer) {
    super(name, [], { replyEncoding: 'utf8' })
    this.args = args as string[]
    this.#encoded = encoded
  }

  override toWritable(): Buffer {
    return this.#encoded
  }
}

/** Sends a command as it is. The buffer must not change before the reply. */
export function sendEncoded(
  client: RedisClient,
  name: string,
  args: readonly string[],
  encoded: Buffer,
): Promise<unknown> {
  const command = new EncodedCommand(name, args, encoded)
  client.sendCommand(command)
  return command.promise
}

const read = (name: string): string => readFileSync(new URL(name, import.meta.url), 'utf8')

/** A Lua script of this folder, with the files that it builds on before it. Runs by its hash. */
export class Script {
  readonly #source: string
  readonly sha: string

  constructor(file: string, ...before: string[]) {
    this.#source = [...before, file].map(read).join('\n')
    this.sha = createHash('sha1').update(this.#source).digest('hex')
  }

  /** Makes the script known to every node that may run it. NOSCRIPT later is normal: a node may be new. */
  async load(client: RedisClient): Promise<void> {
    const nodes: Redis[] = client instanceof Cluster ? client.nodes('master') : [client]
    await Promise.all(nodes.map((node) => node.script('LOAD', this.#source)))
  }

  /**
   * `args` begin with `sha`, the number of keys and the keys; they are sent as they are. Strings only: one Buffer among
   * them would make the client copy the whole command. Rejects with the error reply, or when the connection is lost:
   * the outcome is not known then.
   */
  run(client: RedisClient, args: string[]): Promise<unknown> {
    return send(client, 'evalsha', args)
  }

  /**
   * Runs it, and makes it known first where a node does not know it yet: for what is not on the hot path. Rejects as `run`
   * does.
   */
  async call(client: RedisClient, keys: readonly string[], args: readonly string[]): Promise<unknown> {
    const all = [this.sha, String(keys.length), ...keys, ...args]
    try {
      return await this.run(client, all)
    } catch (error) {
      // Nothing was run: the node is new, or was restarted, or its scripts were flushed.
      if (!(error as Error).message.startsWith('NOSCRIPT')) throw error
      // Another node of a cluster may be away. If it is this one, the next line says so.
      await this.load(client).catch((refused: Error) => {
        if (refused.name === 'ReplyError') throw refused
      })
      return this.run(client, all)
    }
  }
}
