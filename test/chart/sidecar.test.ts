import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import { scratch } from '../../testkit/services/folder.js'
import { BUILD_TIMEOUT, prepare } from '../support/go.js'
import { helm, helmPath } from '../support/helm.js'
import { type Fields, podTemplates, violations } from './pods.js'
import { CHART, render } from './render.js'
import { KUBERNETES_VERSIONS, type KubernetesObject, loadSchemas, schemasOf } from './schemas.js'

beforeAll(async () => {
  await prepare(helmPath)
  await prepare(() => Promise.all(KUBERNETES_VERSIONS.map(loadSchemas)))
}, BUILD_TIMEOUT)

/** The chart of a service, with ours among its dependencies as `helm dependency update` would put it there. */
function serviceChart(): string {
  const folder = join(scratch('chart'), 'orders')
  cpSync(fileURLToPath(new URL('sidecar', import.meta.url)), folder, { recursive: true })
  cpSync(CHART, join(folder, 'charts', 'outrider'), { recursive: true })
  return folder
}

const chart = serviceChart()

const podOf = (objects: KubernetesObject[]): Fields =>
  podTemplates(objects).find(({ name }) => name === 'Deployment shop')!.spec

describe('a service with the relay in its pods', () => {
  test.for(KUBERNETES_VERSIONS)('renders to objects that Kubernetes %s knows', async (kubeVersion, context) => {
    const schemas = await schemasOf(context, kubeVersion)
    const objects = await render(await helm(context), { chart, kubeVersion })
    expect(objects.flatMap((object) => schemas.problems(object))).toEqual([])
    expect(podTemplates(objects).flatMap(violations)).toEqual([])
  })

  test('has it as a native sidecar: it starts before the service, ends after it, and never makes it unready', async (context) => {
    const [relay, ...others] = podOf(await render(await helm(context), { chart })).initContainers
    expect(others).toEqual([])
    expect(relay).toMatchObject({ restartPolicy: 'Always', args: ['relay'] })
    expect(relay.readinessProbe).toBeUndefined()
    expect(relay.startupProbe.httpGet).toEqual({ path: '/livez', port: 'outrider' })
    expect(relay.livenessProbe.httpGet).toEqual({ path: '/livez', port: 'outrider' })
    expect(relay.ports).toEqual([{ name: 'outrider', containerPort: 9474, protocol: 'TCP' }])
  })

  test('mounts the credentials of the relay, not of the owner, for whatever user the pod has', async (context) => {
    const objects = await render(await helm(context), { chart })
    const { volumes, initContainers, containers } = podOf(objects)
    expect(volumes.map(({ name }: Fields) => name)).toEqual(
      initContainers[0].volumeMounts.map(({ name }: Fields) => name),
    )
    expect(containers[0].volumeMounts).toBeUndefined()
    const secrets = volumes.flatMap(({ secret }: Fields) => (secret ? [secret] : []))
    expect(secrets.map(({ secretName }: Fields) => secretName)).toEqual(['orders-relay', 'orders-redis'])
    for (const { defaultMode } of secrets) expect(defaultMode).toBe(0o444)
    const [{ configMap }] = volumes
    const config = objects.find(({ kind, metadata }) => kind === 'ConfigMap' && metadata.name === configMap.name)
    expect(config?.data['outrider.yaml']).toContain('slot: outrider_orders')
  })

  test('is scraped at the port of the relay, not at one of the service', async (context) => {
    const objects = await render(await helm(context), { chart })
    const monitor = objects.find(({ kind }) => kind === 'PodMonitor')
    expect(monitor?.spec.selector.matchLabels).toEqual({ 'app.kubernetes.io/name': 'orders' })
    expect(monitor?.spec.podMetricsEndpoints).toMatchObject([{ port: 'outrider', path: '/metrics' }])
  })

  test('gets the setup, and no Deployment, Service or account besides its own', async (context) => {
    const objects = await render(await helm(context), { chart })
    const kinds = objects.filter(({ metadata }) => !metadata.annotations?.['helm.sh/hook']).map(({ kind }) => kind)
    expect(kinds.toSorted()).toEqual(['ConfigMap', 'Deployment', 'Job', 'PodMonitor'])
  })

  test('is set up again by another Job when its configuration changes: a Job itself cannot', async (context) => {
    const tool = await helm(context)
    const jobs = (objects: KubernetesObject[]) =>
      objects.filter(({ kind }) => kind === 'Job').map(({ metadata }) => metadata.name)
    const before = jobs(await render(tool, { chart }))
    const after = jobs(await render(tool, { chart, values: { outrider: { config: { slot: 'other' } } } }))
    expect([before.length, after.length]).toEqual([1, 1])
    expect(after).not.toEqual(before)
  })
})
