import { beforeAll, describe, expect, test } from 'vitest'
import { BUILD_TIMEOUT, prepare } from '../support/go.js'
import { parseObjects } from './render.js'
import { KUBERNETES_VERSIONS, loadSchemas, schemasOf } from './schemas.js'

beforeAll(() => prepare(() => Promise.all(KUBERNETES_VERSIONS.map(loadSchemas))), BUILD_TIMEOUT)

const RIGHT = `
apiVersion: apps/v1
kind: Deployment
metadata: { name: one, labels: { a: b } }
spec:
  replicas: 2
  selector: { matchLabels: { a: b } }
  strategy: { rollingUpdate: { maxSurge: 1, maxUnavailable: 25% } }
  template:
    spec:
      containers:
        - name: one
          resources: { requests: { cpu: 1, memory: 64Mi } }
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: { name: one }
spec: { selector: { matchLabels: { a: b } }, podMetricsEndpoints: [{ port: http, interval: 30s }] }
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: { name: one }
spec: { groups: [{ name: one, partial_response_strategy: abort, rules: [{ alert: A, expr: 1, for: 5m }] }] }
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: { name: one }
spec: { scaleTargetRef: { name: one }, triggers: [{ type: prometheus, metadata: { threshold: '5' } }] }
`

const WRONG: [found: string, from: string, to: string][] = [
  [
    'Deployment one: /spec/template/spec/containers/0 must NOT have additional properties: resource',
    'resources',
    'resource',
  ],
  ['Deployment one: /spec/replicas must be integer', 'replicas: 2', 'replicas: "2"'],
  ['Deployment one: /metadata/labels/a must be string', 'a: b } }\nspec:\n  rep', 'a: 1 } }\nspec:\n  rep'],
  [
    'Deployment one: /spec/template/spec/containers must be array',
    'containers:\n        - name: one',
    'containers: null\n      volumes:\n        - name: one',
  ],
  ['Deployment one: /spec/strategy/rollingUpdate/maxUnavailable must be integer', '25%', '0.25'],
  ['Deployment one: /spec/template/spec/containers/0/resources/requests/memory must be number', '64Mi', '64MB'],
  ['Deployment one: expected a kind that is known, found apps/v2 Deployment', 'apps/v1', 'apps/v2'],
  ["Deployment one: /spec must have required property 'selector'", 'selector: { matchLabels: { a: b } }\n', '\n'],
  [
    'PodMonitor one: /spec/podMetricsEndpoints/0 must NOT have additional properties: intervall',
    'interval',
    'intervall',
  ],
  ['PodMonitor one: /spec/podMetricsEndpoints/0/interval must match pattern', 'interval: 30s', 'interval: 30 s'],
  ['PrometheusRule one: /spec/groups/0/partial_response_strategy must match pattern', 'abort', 'aborted'],
  [
    'PrometheusRule one: /metadata must NOT have additional properties: names',
    'PrometheusRule\nmetadata: { name',
    'PrometheusRule\nmetadata: { name: one, names',
  ],
  ['ScaledObject one: /spec/triggers/0/metadata/threshold must be string', "'5'", '5'],
]

describe.each(KUBERNETES_VERSIONS)('Kubernetes %s', (version) => {
  test('takes what is right, numbers for texts where it takes either', async (context) => {
    const schemas = await schemasOf(context, version)
    expect(parseObjects(RIGHT).flatMap((object) => schemas.problems(object))).toEqual([])
  })

  test.for(WRONG)('says "%s"', async ([expected, from, to], context) => {
    expect(RIGHT).toContain(from)
    const schemas = await schemasOf(context, version)
    const problems = parseObjects(RIGHT.replace(from, to)).flatMap((object) => schemas.problems(object))
    expect(problems).toContainEqual(expect.stringContaining(expected))
  })
})
