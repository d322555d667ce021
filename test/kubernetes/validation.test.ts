import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { until } from '../../testkit/services/index.js'
import { type KubernetesClient, type KubernetesObject, Refusal } from '../support/kubernetes-client.js'
import { chart, Installation } from './installation.js'
import { useKubernetesEnv } from './kubernetes-env.js'

const envOf = useKubernetesEnv()
const valuesIn = (name: string) => join(chart, 'ci', name)
const monitors = ['ServiceMonitor', 'PodMonitor', 'PrometheusRule']
const settingOf = (kind: string) => `metrics.${kind[0]!.toLowerCase()}${kind.slice(1)}`

interface Workload extends KubernetesObject {
  spec: Record<string, unknown> & { template?: { metadata: object; spec: Record<string, unknown> } }
}

let one: Installation

beforeEach(async (context) => {
  one = await Installation.prepare(context, await envOf(context))
})

/** Whether an install that enables this kind would bring an object of it. */
async function isThere(kind: string, ...more: string[]): Promise<boolean> {
  const objects = await one.render(valuesIn('minimal-values.yaml'), `${settingOf(kind)}.enabled=true`, ...more)
  return objects.some((object) => object.kind === kind)
}

describe('in a cluster without the operator of Prometheus', () => {
  test.each(monitors)('%s is left out, unless it is demanded, which is refused', async (kind) => {
    expect(await isThere(kind)).toBe(false)
    await expect(isThere(kind, `${settingOf(kind)}.renderMode=failIfMissing`)).rejects.toThrow(
      `${settingOf(kind)}: expected a cluster that knows ${kind} (monitoring.coreos.com/v1), found none`,
    )
  })
})

describe('in a cluster with the operator of Prometheus', () => {
  beforeEach(() => prepareCluster(one.env.cluster.client))

  test.each(monitors)('%s is there', async (kind) => {
    expect(await isThere(kind)).toBe(true)
  })

  test.each(readdirSync(join(chart, 'ci')))(
    '%s: nothing is unknown to the API server, and every pod is restricted',
    async (name) => {
      const { client } = one.env.cluster
      const objects = await one.render(valuesIn(name))
      expect(objects.map(({ kind }) => kind)).toContain('Job')
      for (const object of objects)
        expect({ object, warnings: await tryOut(client, object) }).toEqual({ object, warnings: [] })
      const pods = objects.flatMap((object) => podOf(object as Workload))
      for (const pod of pods) await tryOut(client, pod)
    },
  )

  test('what is not so would be found', async () => {
    const { client } = one.env.cluster
    const objects = await one.render(valuesIn('minimal-values.yaml'), 'securityContext.allowPrivilegeEscalation=true')
    const deployment = objects.find(({ kind }) => kind === 'Deployment') as Workload
    expect((await tryOut(client, deployment)).join()).toContain('would violate PodSecurity \\"restricted')
    const [pod] = podOf(deployment)
    await expect(tryOut(client, pod!)).rejects.toThrow('violates PodSecurity "restricted')
    const misspelt = { ...deployment, spec: { ...deployment.spec, replica: 2 } }
    await expect(tryOut(client, misspelt)).rejects.toThrow('unknown field "spec.replica"')
  })
})

/** What `kubectl apply --dry-run=server --validate=strict` asks: unknown and repeated fields are errors. */
function tryOut(client: KubernetesClient, object: KubernetesObject): Promise<string[]> {
  return client.create(object, 'dryRun=All&fieldValidation=Strict')
}

/** The pod that a workload makes, under the namespace's account, for a dry run brings no other. */
function podOf({ kind, metadata, spec }: Workload): KubernetesObject[] {
  const template = kind === 'Pod' ? { metadata: {}, spec } : spec?.template
  if (!template) return []
  const { name, namespace = '' } = metadata
  const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { ...template.metadata, name, namespace } }
  return [Object.assign(pod, { spec: { ...template.spec, serviceAccountName: 'default' } })]
}

/** What others bring: the operator's kinds, without its schemas, and the classes that the values name. */
async function prepareCluster(client: KubernetesClient): Promise<void> {
  await createOnce(client, { apiVersion: 'scheduling.k8s.io/v1', kind: 'PriorityClass', value: 1 }, 'high')
  await createOnce(client, { apiVersion: 'node.k8s.io/v1', kind: 'RuntimeClass', handler: 'runsc' }, 'gvisor')
  const group = 'monitoring.coreos.com'
  const schema = { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } }
  const versions = [{ name: 'v1', served: true, storage: true, schema }]
  for (const kind of monitors) {
    const singular = kind.toLowerCase()
    const plural = `${singular}s`
    const spec = { group, scope: 'Namespaced', names: { kind, singular, plural }, versions }
    const definition = { apiVersion: 'apiextensions.k8s.io/v1', kind: 'CustomResourceDefinition', spec }
    await createOnce(client, definition, `${plural}.${group}`)
    await until(() => client.list(`/apis/${group}/v1/${plural}`).then(() => true))
  }
}

async function createOnce(
  client: KubernetesClient,
  object: { apiVersion: string; kind: string; [field: string]: unknown },
  name: string,
): Promise<void> {
  await client.create({ ...object, metadata: { name } }).catch((error) => {
    if (!(error instanceof Refusal) || error.status !== 409) throw error
  })
}
