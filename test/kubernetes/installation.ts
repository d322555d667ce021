import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import { parseAllDocuments, stringify } from 'yaml'
import { scratch } from '../../testkit/services/folder.js'
import { type Database, type Redis, startRedis, until } from '../../testkit/services/index.js'
import { idsIn } from '../support/events.js'
import { type Ended, type Helm, helm } from '../support/helm.js'
import type { KubernetesObject } from '../support/kubernetes-client.js'
import { own } from '../support/own.js'
import { type KubernetesEnv, relayRole, repository } from './kubernetes-env.js'
import type { Pod } from './pod.js'

export const chart = fileURLToPath(new URL('../../charts/outrider', import.meta.url))

/** Pods that are not so are refused; what would make such pods is warned of. */
const restricted = {
  'pod-security.kubernetes.io/enforce': 'restricted',
  'pod-security.kubernetes.io/warn': 'restricted',
}

const release = 'outrider'
let count = 0

/** A database, a Redis, and a namespace that admits only restricted pods, with the Secrets that docs/kubernetes.md makes. */
export class Installation {
  private constructor(
    readonly env: KubernetesEnv,
    readonly namespace: string,
    readonly database: Database,
    readonly redis: Redis,
    private readonly helm: Helm,
  ) {}

  /** Goes away when the test is over. */
  static async prepare(context: { skip(note?: string): void }, env: KubernetesEnv): Promise<Installation> {
    const program = await helm(context, env.cluster.kubeconfig)
    const database = await env.postgres.createDatabase()
    const redis = own(await startRedis({ settings: { requirepass: 'redis-hunter2' } }))
    const one = new Installation(env, `shop-${++count}`, database, redis, program)
    onTestFinished(async () => {
      await one.helm.try('uninstall', release, '--namespace', one.namespace, '--no-hooks', '--wait')
      await database.drop()
    }, 60_000)
    await one.#create('Namespace', one.namespace, {}, restricted)
    await one.#create('Secret', 'shop-relay', { password: relayRole.password })
    await one.#create('Secret', 'shop-owner', { url: database.url })
    await one.#create('Secret', 'shop-redis', { password: 'redis-hunter2' })
    // The controllers make it in their own time; no pod is admitted before.
    await until(() => one.get('/api/v1', 'serviceaccounts/default'))
    return one
  }

  get values(): object {
    const { port } = this.env.postgres
    return {
      image: { repository },
      postgres: {
        url: `postgres://${relayRole.user}@127.0.0.1:${port}/${this.database.name}`,
        existingSecret: 'shop-relay',
      },
      redis: { url: `redis://127.0.0.1:${this.redis.port}`, existingSecret: 'shop-redis' },
      setup: { postgres: { existingSecret: 'shop-owner' }, grants: { relay: [relayRole.user] } },
    }
  }

  /** `helm install`, waited for, with more values as `--set` takes them. */
  async install(...sets: string[]): Promise<Ended> {
    return this.#change('install', sets)
  }

  async upgrade(...sets: string[]): Promise<Ended> {
    return this.#change('upgrade', sets)
  }

  /** The objects that an install of these values would bring, with those of hooks, as this cluster has them rendered. */
  async render(values: string, ...sets: string[]): Promise<KubernetesObject[]> {
    const more = sets.flatMap((set) => ['--set', set])
    const { code, out, err } = await this.run('template', chart, '--validate', '--values', values, ...more)
    if (code !== 0) throw new Error(err)
    return parseAllDocuments(out).flatMap((document) => (document.toJS() as KubernetesObject | null) ?? [])
  }

  /** Any other command about the release. */
  run(command: string, ...args: string[]): Promise<Ended> {
    return this.helm.try(command, release, ...args, '--namespace', this.namespace)
  }

  get<T = KubernetesObject>(api: string, path: string): Promise<T> {
    return this.env.cluster.client.get<T>(`${api}/namespaces/${this.namespace}/${path}`)
  }

  async list<T = KubernetesObject>(api: string, resource: string): Promise<T[]> {
    return this.env.cluster.client.list<T>(`${api}/namespaces/${this.namespace}/${resource}`)
  }

  /** The names of those pods of the Deployment that are not on their way out. */
  async relays(): Promise<string[]> {
    const pods = await this.list<Pod>('/api/v1', 'pods?labelSelector=app.kubernetes.io/component=relay')
    return pods.flatMap(({ metadata }) => (metadata.deletionTimestamp ? [] : [metadata.name])).sort()
  }

  /** What `kubectl scale` does; resolves when the pods are so many. */
  async scale(replicas: number): Promise<void> {
    const path = `/apis/apps/v1/namespaces/${this.namespace}/deployments/outrider`
    await this.env.cluster.client.patch(path, { spec: { replicas } })
    const pods = () => this.list('/api/v1', 'pods?labelSelector=app.kubernetes.io/component=relay')
    await until(async () => (await pods()).length === replicas)
  }

  logs(pod: string): string {
    return this.env.kubelet.logs(this.namespace, pod)
  }

  async slots(): Promise<number> {
    const sql = 'select from pg_replication_slots where database = $1'
    return (await this.env.postgres.query(sql, [this.database.name])).length
  }

  /** Commits an event as an application does, and waits for it to be in its stream. */
  async sendEvent(): Promise<void> {
    const insert = "insert into outrider.outbox (stream, type) values ('orders', 'order.placed') returning id"
    const [row] = await this.database.query<{ id: string }>(insert)
    const client = this.redis.client()
    const arrived = async () => (await idsIn(client, 'orders')).includes(row!.id)
    await until(arrived, { message: `event ${row!.id} in its stream` }).finally(() => client.disconnect())
  }

  async #change(command: string, sets: string[]): Promise<Ended> {
    const file = join(scratch('values'), 'values.yaml')
    writeFileSync(file, stringify(this.values))
    const more = sets.flatMap((set) => ['--set', set])
    return this.run(command, chart, '--values', file, ...more, '--wait', '--timeout', '50s')
  }

  async #create(kind: string, name: string, stringData: object, labels: Record<string, string> = {}): Promise<void> {
    const metadata = { name, labels, ...(kind === 'Namespace' ? {} : { namespace: this.namespace }) }
    await this.env.cluster.client.create({ apiVersion: 'v1', kind, metadata, stringData } as KubernetesObject)
  }
}
