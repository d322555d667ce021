import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, vi } from 'vitest'
import { needsProcess, type Postgres, startPostgres } from '../../testkit/services/index.js'
import { BUILD_TIMEOUT, orSkip, prepare } from '../support/go.js'
import { helmPath } from '../support/helm.js'
import { type Cluster, kubernetesHost, startCluster } from '../support/kubernetes.js'
import { Kubelet } from './kubelet.js'
import type { Image } from './pod-run.js'

export const repository = 'registry.example.com/outrider'

const root = fileURLToPath(new URL('../..', import.meta.url))
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }

/** The built command stands for the image; it gets nothing but what a pod gives it. */
const images: Record<string, Image> = {
  [`${repository}:${version}`]: {
    bin: dirname(process.execPath),
    program: 'node',
    args: [join(root, 'dist/cli/main.js')],
    env: (address) => ({ OUTRIDER_HTTP_HOST: address }),
  },
}

/** A cluster with its one node, and a Postgres that was there before. */
export interface KubernetesEnv {
  cluster: Cluster
  kubelet: Kubelet
  postgres: Postgres
}

/** The relay's login role, which a database team has made. */
export const relayRole = { user: 'shop_relay', password: 'relay-hunter2' }

/** One environment for all tests of a file; a test that cannot have it is skipped and says why. */
export function useKubernetesEnv(): (context: { skip(note?: string): void }) => Promise<KubernetesEnv> {
  let env: KubernetesEnv | undefined
  vi.setConfig({ testTimeout: 180_000 })
  beforeAll(async () => {
    if (!(await prepare(helmPath)) || !(await prepare(kubernetesHost)) || isGiven) return
    env = await startKubernetesEnv()
  }, BUILD_TIMEOUT)
  afterAll(async () => {
    await env?.kubelet.stop()
    await env?.postgres.remove()
    await env?.cluster.remove()
  })
  return async (context) => {
    needsProcess(context)
    await orSkip(context, 'Helm', helmPath)
    await orSkip(context, 'a Kubernetes API server', kubernetesHost)
    return env!
  }
}

const isGiven = process.env.OUTRIDER_TEST_POSTGRES_URL || process.env.OUTRIDER_TEST_REDIS_URL

async function startKubernetesEnv(): Promise<KubernetesEnv> {
  const cluster = await startCluster()
  const kubelet = new Kubelet(cluster.client, images)
  kubelet.start()
  const postgres = await startPostgres({ auth: 'scram-sha-256', settings: { max_slot_wal_keep_size: '1GB' } })
  await postgres.query(`create role ${relayRole.user} login replication password '${relayRole.password}'`)
  return { cluster, kubelet, postgres }
}
