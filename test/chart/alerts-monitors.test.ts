import { beforeAll, describe, expect, it } from 'vitest'
import { BUILD_TIMEOUT, prepare } from '../support/go.js'
import { type Helm, helm, helmPath } from '../support/helm.js'
import { refusal, render } from './render.js'
import { REQUIRED } from './rules.js'

beforeAll(async () => {
  await prepare(helmPath)
}, BUILD_TIMEOUT)

const SECTIONS = { ServiceMonitor: 'serviceMonitor', PodMonitor: 'podMonitor', PrometheusRule: 'prometheusRule' }

const valuesOf = (metrics: object, more: object = {}) => ({ ...REQUIRED, ...more, metrics })

/** A monitor's selector, and how it scrapes. */
async function monitorOf(
  chart: Helm,
  section: 'serviceMonitor' | 'podMonitor',
  more: object = {},
  values: object = {},
) {
  const objects = await render(chart, { values: valuesOf({ [section]: { enabled: true, ...more } }, values) })
  const found = objects.find(({ kind }) => kind.toLowerCase() === section.toLowerCase()) as unknown as {
    metadata: { labels: Record<string, string> }
    spec: { selector: { matchLabels: Record<string, string> }; endpoints?: object[]; podMetricsEndpoints?: object[] }
  }
  const { selector, endpoints, podMetricsEndpoints } = found.spec
  return {
    objects,
    labels: found.metadata.labels,
    selects: selector.matchLabels,
    ...(endpoints ?? podMetricsEndpoints)?.[0],
  }
}

describe('monitoring', () => {
  it.for(Object.entries(SECTIONS))(
    'a %s is there when it is wanted and the cluster knows the kind',
    async ([kind, section], context) => {
      const chart = await helm(context)
      const kinds = async (metrics: object, apiVersions: string[]) => {
        const objects = await render(chart, { values: valuesOf({ [section]: metrics }), apiVersions })
        return objects.filter((object) => object.kind === kind).length
      }
      const known = [`monitoring.coreos.com/v1/${kind}`]
      expect(await kinds({}, known)).toBe(0)
      expect(await kinds({ enabled: true }, known)).toBe(1)
      expect(await kinds({ enabled: true }, ['monitoring.coreos.com/v1'])).toBe(1)
      expect(await kinds({ enabled: true }, [])).toBe(0)
      expect(await kinds({ enabled: true, renderMode: 'alwaysRender' }, [])).toBe(1)
      expect(await kinds({ enabled: true, renderMode: 'failIfMissing' }, known)).toBe(1)
      const values = valuesOf({ [section]: { enabled: true, renderMode: 'failIfMissing' } })
      expect(await refusal(chart, { values, apiVersions: [] })).toContain(
        `metrics.${section}: expected a cluster that knows ${kind}`,
      )
    },
  )

  it('a ServiceMonitor finds the Service, a PodMonitor the pods, and both name the job alike', async (context) => {
    const chart = await helm(context)
    const { objects, selects, ...service } = await monitorOf(chart, 'serviceMonitor')
    const labelsOf = (kind: string) => objects.find((object) => object.kind === kind)?.metadata.labels
    expect(labelsOf('Service')).toMatchObject(selects)
    const job = { targetLabel: 'job', replacement: 'shop-outrider' }
    expect(service).toMatchObject({ port: 'http', path: '/metrics', interval: '30s', relabelings: [job] })

    const pods = await monitorOf(chart, 'podMonitor')
    const deployment = objects.find(({ kind }) => kind === 'Deployment') as unknown as {
      spec: { template: { metadata: { labels: object }; spec: { containers: { ports: object[] }[] } } }
    }
    expect(deployment.spec.template.metadata.labels).toMatchObject(pods.selects)
    expect(deployment.spec.template.spec.containers[0]?.ports).toContainEqual(expect.objectContaining({ name: 'http' }))
    expect(pods).toMatchObject({ port: 'http', path: '/metrics', interval: '30s', relabelings: [job] })
  })

  it('a monitor takes labels, intervals and relabellings of your own', async (context) => {
    const chart = await helm(context)
    const cluster = { targetLabel: 'cluster', replacement: 'eu' }
    const more = { labels: { release: 'kube-prometheus' }, interval: '15s', relabelings: [cluster] }
    for (const section of ['serviceMonitor', 'podMonitor'] as const) {
      expect(await monitorOf(chart, section, more)).toMatchObject({
        labels: { release: 'kube-prometheus', 'app.kubernetes.io/name': 'outrider' },
        interval: '15s',
        relabelings: [{ targetLabel: 'job' }, cluster],
      })
    }
  })

  it('in the sidecar form a PodMonitor looks for your pods, and a ServiceMonitor is refused', async (context) => {
    const chart = await helm(context)
    const sidecar = { deployment: { enabled: false } }
    const selector = { app: 'shop' }
    expect((await monitorOf(chart, 'podMonitor', { selector }, sidecar)).selects).toEqual(selector)
    const refused = (metrics: object) => refusal(chart, { values: valuesOf(metrics, sidecar) })
    expect(await refused({ podMonitor: { enabled: true } })).toContain('metrics.podMonitor.selector: expected')
    expect(await refused({ serviceMonitor: { enabled: true } })).toContain('Use metrics.podMonitor')
  })

  it('both at once are refused: every relay would be counted twice', async (context) => {
    const values = valuesOf({ serviceMonitor: { enabled: true }, podMonitor: { enabled: true } })
    expect(await refusal(await helm(context), { values })).toContain('found both enabled')
  })
})
