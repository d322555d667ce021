import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { parse, parseAllDocuments } from 'yaml'
import { BUILD_TIMEOUT, prepare } from '../support/go.js'
import { helm, helmPath } from '../support/helm.js'
import { containersOf, podTemplates } from './pods.js'
import { CHART, render, renderText, VALUES } from './render.js'
import { KUBERNETES_VERSIONS, type KubernetesObject, loadSchemas, nameOf, schemasOf } from './schemas.js'

beforeAll(async () => {
  await prepare(helmPath)
  await prepare(() => Promise.all(KUBERNETES_VERSIONS.map(loadSchemas)))
}, BUILD_TIMEOUT)

/** What a namespace's own administrator may create. Whatever gives rights, or reaches beyond the namespace, is not here. */
const KINDS = [
  ...['ConfigMap', 'Deployment', 'Job', 'NetworkPolicy', 'Pod', 'PodDisruptionBudget', 'Service', 'ServiceAccount'],
  ...['PodMonitor', 'PrometheusRule', 'ServiceMonitor'],
]

const byName = (one: string, other: string) => (one < other ? -1 : 1)

describe.each([...VALUES])('the values "%s"', (_name, file) => {
  test.for(KUBERNETES_VERSIONS)('render to objects that Kubernetes %s knows', async (kubeVersion, context) => {
    const schemas = await schemasOf(context, kubeVersion)
    const objects = await render(await helm(context), { files: [file], kubeVersion })
    expect(objects.flatMap((object) => schemas.problems(object))).toEqual([])
  })

  test('make each object once, with all recommended labels, and none that gives rights', async (context) => {
    const objects = await render(await helm(context), { files: [file] })
    const names = objects.map(nameOf)
    expect(names.toSorted(byName)).toEqual([...new Set(names)].toSorted(byName))
    const pods = podTemplates(objects)
    for (const { name, metadata } of [...pods, ...objects.map((object) => ({ ...object, name: nameOf(object) }))]) {
      if (name.endsWith('-proxies')) continue
      expect(metadata.labels, name).toMatchObject({
        'app.kubernetes.io/name': expect.any(String),
        'app.kubernetes.io/instance': 'shop',
        'app.kubernetes.io/version': expect.any(String),
        'app.kubernetes.io/part-of': 'outrider',
        'app.kubernetes.io/managed-by': 'Helm',
        'helm.sh/chart': expect.any(String),
      })
    }
    for (const object of objects) {
      expect(KINDS).toContain(object.kind)
      expect(object.metadata.namespace ?? 'shop', nameOf(object)).toBe('shop')
    }
  })

  test('leave no hook behind that has done its work', async (context) => {
    for (const object of await render(await helm(context), { files: [file] })) {
      const annotations = object.metadata.annotations ?? {}
      if (!annotations['helm.sh/hook']) continue
      const policy = annotations['helm.sh/hook-delete-policy'] ?? 'none'
      expect(policy, nameOf(object)).toMatch(/^before-hook-creation/)
      if (object.kind === 'Job') expect(policy, nameOf(object)).toContain('hook-succeeded')
    }
  })

  test('select the pods of the relay and no others', async (context) => {
    const objects = await render(await helm(context), { files: [file] })
    const matching = (selector: Record<string, string>) =>
      podTemplates(objects).filter(({ metadata }) =>
        Object.entries(selector).every(([label, value]) => metadata.labels[label] === value),
      )
    for (const object of objects) {
      const selector = selectorOf(object)
      if (!selector || object.metadata.name.match(/-(setup|test|teardown)$/)) continue
      expect(
        matching(selector).map(({ name }) => name),
        nameOf(object),
      ).toEqual([expect.stringMatching(/^Deployment /)])
    }
  })

  test('say where a name leads: volumes, ConfigMaps, ports and service accounts', async (context) => {
    const objects = await render(await helm(context), { files: [file] })
    const made = (kind: string, name: string) => objects.some((object) => nameOf(object) === `${kind} ${name}`)
    for (const { name, spec } of podTemplates(objects)) {
      const volumes = (spec.volumes ?? []).map((volume: { name: string }) => volume.name)
      expect(volumes, name).toEqual([...new Set(volumes)])
      const own = (spec.volumes ?? []).filter((volume: { name: string }) => volume.name === 'outrider-config')
      for (const { configMap } of own)
        expect(made('ConfigMap', configMap.name), `${name}: ${configMap.name}`).toBe(true)
      for (const container of containersOf(spec)) {
        for (const mount of container.volumeMounts ?? [])
          expect(volumes, `${name}: ${container.name}`).toContain(mount.name)
        const ports = (container.ports ?? []).map((port: { name: string }) => port.name)
        for (const probe of ['startupProbe', 'livenessProbe', 'readinessProbe']) {
          if (container[probe]) expect(ports, `${name}: ${probe}`).toContain(container[probe].httpGet.port)
        }
      }
      const account = spec.serviceAccountName ?? 'default'
      expect(account === 'default' || made('ServiceAccount', account), `${name}: ${account}`).toBe(true)
    }
  })
})

/** The least that can be given, and nearly all of it. What the other sets say of connections: configuration.test.ts. */
test.for(['minimal', 'everything'])('the values "%s" render to what was reviewed', async (name, context) => {
  // Reviewed on change: npx vitest run -u test/chart/render.test.ts
  const text = await renderText(await helm(context), { files: [VALUES.get(name)!] })
  await expect(withoutNoise(text)).toMatchFileSnapshot(`golden/${name}.yaml`)
})

const RELAY = ['ConfigMap', 'Deployment', 'PodDisruptionBudget', 'Service', 'ServiceAccount'].map(
  (kind) => `${kind} shop-outrider`,
)
const SETUP = ['ConfigMap shop-outrider-setup', 'Job shop-outrider-setup']
const TEST = ['ConfigMap shop-outrider-test', 'Pod shop-outrider-test']

test.for<[string, string[]]>([
  ['tls', [...RELAY, ...SETUP, ...TEST]],
  ['cloudnativepg', [...RELAY, ...SETUP, ...TEST, 'PodMonitor shop-outrider']],
  ['sidecar', ['ConfigMap shop-outrider', 'Job shop-outrider-setup-CHECKSUM', ...TEST]],
])('the values "%s" render to these objects and no others', async ([name, expected], context) => {
  const objects = await render(await helm(context), { files: [VALUES.get(name)!] })
  const names = objects.map((object) => nameOf(object).replace(/-[0-9a-f]{8}$/, '-CHECKSUM'))
  expect(names.toSorted(byName)).toEqual(expected.toSorted(byName))
})

test('names stay within what Kubernetes takes, however long that of the release', async (context) => {
  const tool = await helm(context)
  for (const file of VALUES.values()) {
    const objects = await render(tool, { files: [file], release: 'r'.repeat(53) })
    for (const { kind, metadata } of [
      ...objects,
      ...podTemplates(objects).map((pod) => ({ kind: pod.name, ...pod })),
    ]) {
      expect(metadata.name ?? kind, kind).toMatch(/^.{1,63}$/)
      for (const value of Object.values(metadata.labels ?? {})) {
        expect(value, kind).toMatch(/^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$/)
      }
    }
  }
})

/** What a selector selects by, where the object has one. */
function selectorOf({ kind, spec }: KubernetesObject): Record<string, string> | undefined {
  if (kind === 'Service') return spec.selector
  if (kind === 'NetworkPolicy') return spec.podSelector.matchLabels
  if (kind === 'ServiceMonitor' || !spec?.selector) return undefined
  return spec.selector.matchLabels
}

/**
 * Without what changes with each version and each configuration, without a copy of the dashboard, and written in one way,
 * whatever the version of Helm.
 */
function withoutNoise(text: string): string {
  const { version, appVersion } = parse(readFileSync(join(CHART, 'Chart.yaml'), 'utf8'))
  return parseAllDocuments(text, { version: '1.1' })
    .map((document) => document.toString({ lineWidth: 0 }))
    .join('')
    .replaceAll(`helm.sh/chart: outrider-${version}`, 'helm.sh/chart: outrider-VERSION')
    .replace(/(app\.kubernetes\.io\/version: ).*/g, '$1VERSION')
    .replaceAll(`/outrider:${appVersion}"`, '/outrider:VERSION"')
    .replace(/(checksum\/[a-z]+: )[0-9a-f]{64}/g, '$1CHECKSUM')
    .replace(/(-setup-)[0-9a-f]{8}\b/g, '$1CHECKSUM')
    .replace(/^( *)(outrider\.json: \|\n)(\1 .*\n|\n)+/gm, '$1$2$1  (files/dashboard.json)\n')
}
