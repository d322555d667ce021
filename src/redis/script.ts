import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Cluster, Command, type Redis } from 'ioredis'
import type { RedisClient } from './connect.js'

const read = (name: string): string => readFileSync(new URL(name, import.meta.url), 'utf8')

/** A Lua script of this folder, with the comparison of positions before it. Runs by its hash. */
export class Script {
  readonly #source: string
  readonly sha: string

  constructor(file: string) {
    this.#source = `${read('position.lua')}\n${read(file)}`
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
    const command = new Command('evalsha', [], { replyEncoding: 'utf8' })
    // Given to the constructor, they would be copied one by one: a seventh of all the CPU that a batch costs.
    command.args = args
    client.sendCommand(command)
    return command.promise
  }
}
