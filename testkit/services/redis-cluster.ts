import { Cluster, Command } from 'ioredis'
import { type Redis, startRedis } from './redis.js'
import { until } from './until.js'

const SLOTS = 16_384

/** After so long, in milliseconds, a silent node counts as failed: while the cluster forms, and after `noticesFailures`. */
const QUICK_MS = '3000'
/** The same for all others: on a busy machine a node that lives is silent for seconds, and its replica would take its place. */
const PATIENT_MS = '60000'

export interface RedisClusterOptions {
  masters?: number
  /** Of each master. */
  replicas?: number
  /** Lines of redis.conf of every node. */
  settings?: Record<string, string>
}

/** A node that has slots, with its replicas; which is which changes at a failover. */
interface Shard {
  master: Redis
  replicas: Redis[]
}

/** Starts a Redis Cluster, its slots in as many equal ranges as it has masters. Call `remove()` when done. */
export async function startRedisCluster(options: RedisClusterOptions = {}): Promise<RedisCluster> {
  const { masters = 3, replicas = 0, settings = {} } = options
  const nodes = await Promise.all(
    Array.from({ length: masters * (1 + replicas) }, async () =>
      startRedis({
        settings: {
          'cluster-enabled': 'yes',
          'cluster-announce-ip': '127.0.0.1',
          'cluster-node-timeout': QUICK_MS,
          // Also one that was cut off for long may be promoted.
          'cluster-replica-validity-factor': '0',
          ...settings,
        },
      }),
    ),
  )
  const shards = nodes.slice(0, masters).map((master, n) => ({
    master,
    replicas: nodes.slice(masters + n * replicas, masters + (n + 1) * replicas),
  }))
  const cluster = new RedisCluster(nodes, shards)
  try {
    await cluster.form()
  } catch (error) {
    await cluster.remove()
    throw error
  }
  return cluster
}

export class RedisCluster {
  /** It connects again by itself. */
  readonly client: Cluster
  readonly nodes: readonly Redis[]
  readonly #shards: Shard[]
  /** Of slots that were moved. */
  readonly #moved = new Map<number, Shard>()

  constructor(nodes: readonly Redis[], shards: Shard[]) {
    this.nodes = nodes
    this.#shards = shards
    this.client = new Cluster(
      nodes.map(({ port }) => ({ host: '127.0.0.1', port })),
      { lazyConnect: true, clusterRetryStrategy: () => 50 },
    )
    // Failovers are what these tests do; the next command reports it.
    this.client.on('error', () => {})
  }

  get url(): string {
    const [first, ...others] = this.nodes.map(({ port }) => `127.0.0.1:${port}`)
    return `redis+cluster://${first}?${others.map((node) => `node=${node}`).join('&')}`
  }

  get masters(): Redis[] {
    return this.#shards.map(({ master }) => master)
  }

  /** Lets the nodes know each other. */
  async form(): Promise<void> {
    const [first] = this.nodes as [Redis]
    for (const [n, node] of this.nodes.entries()) {
      await node.command('CLUSTER', 'SET-CONFIG-EPOCH', String(n + 1))
      if (node !== first) await node.command('CLUSTER', 'MEET', '127.0.0.1', String(first.port), await busPort(first))
    }
    const { length } = this.#shards
    for (const [n, { master }] of this.#shards.entries()) {
      const [from, to] = [n, n + 1].map((end) => Math.floor((end * SLOTS) / length)) as [number, number]
      await master.command('CLUSTER', 'ADDSLOTSRANGE', String(from), String(to - 1))
    }
    await this.#untilAll((info) => info.includes(`cluster_known_nodes:${this.nodes.length}`))
    for (const { master, replicas } of this.#shards) {
      const id = await idOf(master)
      for (const replica of replicas) {
        await until(async () => (await replica.command('CLUSTER', 'REPLICATE', id)) === 'OK', {
          message: 'a node to know the one to follow',
        })
      }
    }
    await this.#untilAll((info) => info.includes('cluster_state:ok') && info.includes('cluster_slots_ok:16384'))
    for (const { master, replicas } of this.#shards) {
      for (const replica of replicas) await untilInStep(master, replica)
    }
    for (const node of this.nodes) await node.config('cluster-node-timeout', PATIENT_MS)
  }

  /** From here on a node that is silent for three seconds counts as failed. Before that none does. */
  async noticesFailures(): Promise<void> {
    for (const node of this.nodes) await node.config('cluster-node-timeout', QUICK_MS)
  }

  /** The master of the slot that this key is in. */
  masterOf(key: string): Redis {
    return this.#shardOf(key).master
  }

  /** A replica of that master. */
  replicaOf(key: string): Redis {
    const [replica] = this.#shardOf(key).replicas
    if (replica === undefined) throw new Error(`Expected the master of ${key} to have a replica, found none.`)
    return replica
  }

  /**
   * The replica of the key's master takes its slots over, with what it has, and asks no one: CLUSTER FAILOVER TAKEOVER. The old
   * master follows it if it runs.
   */
  async takeOver(key: string): Promise<void> {
    const replica = this.replicaOf(key)
    await replica.command('CLUSTER', 'FAILOVER', 'TAKEOVER')
    await this.promoted(key)
  }

  /** Until the replica of the key's master is a master, for whatever reason. */
  async promoted(key: string): Promise<void> {
    const shard = this.#shardOf(key)
    const replica = this.replicaOf(key)
    await until(async () => /^role:master/m.test(String(await replica.command('INFO', 'replication'))), {
      message: 'a replica to be promoted',
    })
    shard.replicas = [...shard.replicas.filter((each) => each !== replica), shard.master]
    shard.master = replica
  }

  /** Begins to move the slot of the key: each key is where it is until `moveKeys`. */
  async beginMove(key: string, to: Redis): Promise<void> {
    const from = this.masterOf(key)
    const slot = String(slotOf(key))
    await to.command('CLUSTER', 'SETSLOT', slot, 'IMPORTING', await idOf(from))
    await from.command('CLUSTER', 'SETSLOT', slot, 'MIGRATING', await idOf(to))
  }

  /** Moves these keys, which are in one slot, or all that the slot has. */
  async moveKeys(key: string, to: Redis, keys?: readonly string[]): Promise<void> {
    const from = this.masterOf(key)
    const all = keys ?? ((await from.command('CLUSTER', 'GETKEYSINSLOT', String(slotOf(key)), '1000')) as string[])
    await from.command('MIGRATE', '127.0.0.1', String(to.port), '', '0', '10000', 'KEYS', ...all)
  }

  /** The slot is the other one's: from here on the old one answers MOVED. */
  async endMove(key: string, to: Redis): Promise<void> {
    const id = await idOf(to)
    const others = this.masters.filter((master) => master !== to)
    for (const master of [to, ...others]) await master.command('CLUSTER', 'SETSLOT', String(slotOf(key)), 'NODE', id)
    this.#moved.set(slotOf(key), this.#shards.find(({ master }) => master === to) as Shard)
  }

  async remove(): Promise<void> {
    this.client.disconnect()
    await Promise.all(this.nodes.map((node) => node.remove()))
  }

  #shardOf(key: string): Shard {
    const { length } = this.#shards
    const slot = slotOf(key)
    const isBelow = (_: Shard, n: number) => slot < Math.floor(((n + 1) * SLOTS) / length)
    return this.#moved.get(slot) ?? (this.#shards.find(isBelow) as Shard)
  }

  async #untilAll(matches: (info: string) => boolean): Promise<void> {
    for (const node of this.nodes) {
      await until(async () => matches(String(await node.command('CLUSTER', 'INFO'))), {
        message: 'the cluster to form',
      })
    }
  }
}

/** The hash slot of a key. */
export const slotOf = (key: string): number => new Command('get', [key]).getSlot() ?? 0

const idOf = async (node: Redis): Promise<string> => String(await node.command('CLUSTER', 'MYID'))

const busPort = async (node: Redis): Promise<string> =>
  ((await node.command('CONFIG', 'GET', 'cluster-port')) as [string, string])[1]

/** Until a replica has what its primary had when this was called. */
export async function untilInStep(primary: Redis, replica: Redis): Promise<void> {
  const offset = async (node: Redis, name: string) =>
    Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(String(await node.command('INFO', 'replication')))?.[1] ?? -1)
  const goal = await offset(primary, 'master_repl_offset')
  await until(async () => (await offset(replica, 'slave_repl_offset')) >= goal, { message: 'a replica to be in step' })
}

/** A replica receives nothing more, whatever it tries; it may be promoted all the same. */
export async function cutOff(replica: Redis): Promise<void> {
  await replica.config('masteruser', 'nobody')
  await replica.config('masterauth', 'of no use')
  await replica.command('CLIENT', 'KILL', 'TYPE', 'master')
  await until(async () => /^master_link_status:down/m.test(String(await replica.command('INFO', 'replication'))), {
    message: 'a replica to be cut off',
  })
}
