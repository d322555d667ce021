import { Registry } from 'prom-client'
import { beforeAll, describe, expect, it } from 'vitest'
import { parseDuration } from '../../src/base/units.js'
import { check } from '../../src/cli/check.js'
import { setup } from '../../src/cli/setup.js'
import { loadConfig } from '../../src/config/load.js'
import { createConsumerMetrics } from '../../src/consumer/metrics.js'
import { RelayProcess } from '../../testkit/relay-process.js'
import { freePort, needsProcess, startRedis } from '../../testkit/services/index.js'
import { BUILD_TIMEOUT, prepare } from '../support/go.js'
import { type Container, environmentOf, manifestOf, manifestsOf, textOf } from '../support/manifests.js'
import { containersOf, type Fields, podTemplates, violations } from './pods.js'
import { KUBERNETES_VERSIONS, loadSchemas, schemasOf } from './schemas.js'

// The YAML of examples/kubernetes. test/examples/kubernetes-worker.slow.test.ts runs the worker with what worker.yaml gives it.

const WORKER = [
  ...['worker.yaml', 'inbox-setup.yaml', 'network-policy.yaml', 'pod-monitor.yaml'],
  ...['hpa.yaml', 'keda-prometheus.yaml', 'keda-redis.yaml'],
]
const SIDECAR = ['sidecar-setup.yaml', 'sidecar.yaml']
const OPERATOR = ['operator.yaml']

const objects = [...WORKER, ...SIDECAR, ...OPERATOR].flatMap(manifestsOf)
const pods = podTemplates(objects)
const worker = manifestOf('worker.yaml', 'Deployment')
const web = manifestOf('sidecar.yaml', 'Deployment')
const job = manifestOf('sidecar-setup.yaml', 'Job')
const [program] = containersIn(worker) as [Container]
const [relay, app] = containersIn(web) as [Container, Container]

describe('every manifest', () => {
  beforeAll(() => prepare(() => Promise.all(KUBERNETES_VERSIONS.map(loadSchemas))), BUILD_TIMEOUT)

  it.for(KUBERNETES_VERSIONS)('is taken by Kubernetes %s', async (version, context) => {
    const schemas = await schemasOf(context, version)
    expect(objects.flatMap((object) => schemas.problems(object))).toEqual([])
  })

  it('names images by their version, and no namespace: that is said to kubectl', () => {
    const images = pods.flatMap(({ spec }) => containersOf(spec).map(({ image }) => image))
    expect(images).toHaveLength(7)
    for (const image of images) expect(image).toMatch(/^registry\.example\.com\/[a-z/]+:\d+\.\d+\.\d+$/)
    for (const object of objects) expect(object.metadata.namespace).toBeUndefined()
  })

  it('runs under restricted Pod Security, with a read-only root, bounded memory and no token', () => {
    expect(pods.map(({ name }) => name)).toEqual([
      'Deployment invoices',
      'Job invoices-setup',
      'Job outrider-setup',
      'Deployment web',
      'Pod outrider-operator',
    ])
    expect(pods.flatMap(violations)).toEqual([])
    for (const { spec } of pods) {
      expect(spec.automountServiceAccountToken).toBe(false)
      for (const container of containersOf(spec)) {
        expect(container.securityContext.readOnlyRootFilesystem).toBe(true)
        expect(container.resources.limits.memory).toMatch(/^\d+Mi$/)
      }
    }
  })
})

describe('worker.yaml', () => {
  it('gives the worker longer to stop than it takes', () => {
    const stopTimeout = program.env?.find(({ name }) => name === 'STOP_TIMEOUT')?.value ?? ''
    // Ten seconds beyond it: test/examples/kubernetes-worker.slow.test.ts.
    const longest = (parseDuration(stopTimeout) as number) / 1000 + 10
    expect(worker.spec.template.spec.terminationGracePeriodSeconds).toBeGreaterThan(longest)
  })

  it('is what the other files scale, scrape and guard', () => {
    const { labels } = worker.spec.template.metadata
    const selectors = [
      worker.spec.selector,
      worker.spec.template.spec.topologySpreadConstraints[0].labelSelector,
      manifestOf('worker.yaml', 'PodDisruptionBudget').spec.selector,
      manifestOf('pod-monitor.yaml', 'PodMonitor').spec.selector,
    ]
    for (const { matchLabels } of selectors) expect(labels).toMatchObject(matchLabels)
    const targets = objects.flatMap(({ spec }) => (spec?.scaleTargetRef ? [spec.scaleTargetRef.name] : []))
    expect(targets).toEqual(Array(3).fill(worker.metadata.name))
    const [endpoint] = manifestOf('pod-monitor.yaml', 'PodMonitor').spec.podMetricsEndpoints
    expect(program.ports).toContainEqual(expect.objectContaining({ name: endpoint.port }))
    expect(textOf('worker.ts')).toContain(`case '${endpoint.path}':`)
    // It is the autoscaler that says how many.
    expect(worker.spec.replicas).toBeUndefined()
  })
})

describe('autoscaling', () => {
  const group = program.env?.find(({ name }) => name === 'GROUP')?.value

  it('asks for metrics that a consumer exports, by labels that they have', async () => {
    const exported = await gauges()
    const queries = ['prometheus-adapter.yaml', 'keda-prometheus.yaml'].map(textOf).join('\n')
    const asked = manifestOf('hpa.yaml', 'HorizontalPodAutoscaler').spec.metrics.map(
      (metric: Fields) => metric.external.metric,
    )
    const names = [...queries.matchAll(/outrider_\w+/g)].map(([name]) => name)
    expect(new Set(names)).toEqual(new Set(['lag', 'lag_known', 'pending'].map((name) => `outrider_consumer_${name}`)))
    // What the pod's monitor adds to each of them.
    for (const name of names) expect(exported.get(name)).toEqual(['group', 'stream'])
    const labels = [...queries.matchAll(/by \(([^)]*)\)|\b(\w+)="/g)].flatMap(([, by, one]) => (by ?? one)?.split(', '))
    expect(new Set(labels.filter((label) => label !== '__name__'))).toEqual(new Set(['group', 'stream', 'namespace']))
    for (const { name, selector } of asked) {
      expect(exported.has(name)).toBe(true)
      expect(textOf('prometheus-adapter.yaml')).toContain(`__name__="${name}"`)
      expect(selector.matchLabels).toEqual({ group })
    }
  })

  it('never adds up what each pod tells of the whole group', () => {
    const queries = [...textOf('prometheus-adapter.yaml').matchAll(/metricsQuery:(?: >-\n)? +(.*)/g)].map(([, q]) => q)
    for (const { metadata } of manifestOf('keda-prometheus.yaml', 'ScaledObject').spec.triggers)
      queries.push(metadata.query)
    expect(queries).toHaveLength(4)
    for (const query of queries) expect(query).toMatch(/^sum\(max by \(group, stream\) \(/)
  })

  it('goes to no worker at all only where the lag is known without one', () => {
    expect(manifestOf('hpa.yaml', 'HorizontalPodAutoscaler').spec.minReplicas).toBe(1)
    expect(manifestOf('keda-prometheus.yaml', 'ScaledObject').spec.minReplicaCount).toBe(1)
    const { spec } = manifestOf('keda-redis.yaml', 'ScaledObject')
    expect(spec.minReplicaCount).toBe(0)
    expect(spec.triggers.map(({ metadata }: Fields) => [metadata.stream, metadata.consumerGroup])).toEqual(
      Array(2).fill(['orders', group]),
    )
  })

  it('lets KEDA look at the group, and neither read nor change anything', async (context) => {
    needsProcess(context, ['redis'])
    const server = await startRedis()
    const admin = server.client()
    try {
      await admin.call('XGROUP', 'CREATE', 'orders', 'invoices', '0', 'MKSTREAM')
      await admin.xadd('orders', '*', 'data', 'secret')
      const line = /^# {3}ACL (SETUSER .*)$/m.exec(textOf('keda-redis.yaml'))?.[1]
      await admin.call('ACL', ...(line as string).split(' '))
      const keda = server.client({ username: 'keda', password: 'PASSWORD' })
      const answer = (...words: [string, ...string[]]) =>
        keda.call(...words).then(
          () => 'done',
          (error: Error) => error.message.split(' ')[0],
        )
      const looks = ['PING', 'INFO', 'XINFO GROUPS orders', 'XLEN orders', 'XPENDING orders invoices']
      for (const look of looks) expect([look, await answer(...wordsOf(look))]).toEqual([look, 'done'])
      const others = [
        ...['XRANGE orders - +', 'XREADGROUP GROUP invoices keda STREAMS orders >', 'XACK orders invoices 1-1'],
        ...[
          'XADD orders * a b',
          'DEL orders',
          'XLEN payments',
          'XINFO STREAM orders',
          'XGROUP DESTROY orders invoices',
        ],
        ...['CONFIG GET *', 'KEYS *', 'ACL LIST', 'GET orders'],
      ]
      for (const other of others) expect([other, await answer(...wordsOf(other))]).toEqual([other, 'NOPERM'])
      keda.disconnect()
    } finally {
      admin.disconnect()
      await server.remove()
    }
  })
})

describe('what a person brings', () => {
  const [setUpInbox] = containersIn(manifestOf('inbox-setup.yaml', 'Job')) as [Container]
  const [sleeper] = containersOf(manifestOf('operator.yaml', 'Pod').spec) as [Container]

  it('is configured with what Outrider knows, and reads the URLs that are mounted', () => {
    const owner = 'postgres://shop_owner@db.example.com/shop'
    const files = {
      '/etc/outrider/config/outrider.yaml': manifestOf('sidecar-setup.yaml', 'ConfigMap').data['outrider.yaml'],
      '/etc/outrider/owner/url': owner,
      '/etc/outrider/redis/url': 'redis://operator@redis.example.com',
    }
    for (const container of [setUpInbox, sleeper]) {
      expect(loadConfig({ env: environmentOf(container, files) }).postgres.url).toBe(owner)
    }
    const [command, ...flags] = setUpInbox.args as string[]
    expect([command, flags[1]]).toEqual(['setup', 'inbox'])
    for (const flag of flags.filter((arg) => arg.startsWith('--'))) {
      expect(Object.keys(setup.options)).toContain(flag.slice(2))
    }
    // Sleeps, for whoever execs into it, and not for ever.
    expect(sleeper.command).toEqual(['tini', '-s', '--', 'sleep', 'infinity'])
    expect(manifestOf('operator.yaml', 'Pod').spec.activeDeadlineSeconds).toBeGreaterThan(0)
  })

  it('is let through by the policy, as the worker is', () => {
    const { podSelector } = manifestOf('network-policy.yaml', 'NetworkPolicy').spec
    const names = ['worker.yaml', 'inbox-setup.yaml'].map((file) => podTemplates(manifestsOf(file))[0]?.metadata.labels)
    names.push(manifestOf('operator.yaml', 'Pod').metadata.labels)
    expect(podSelector.matchExpressions).toEqual([
      {
        key: 'app.kubernetes.io/name',
        operator: 'In',
        values: names.map((labels) => labels['app.kubernetes.io/name']),
      },
    ])
  })
})

describe('the sidecar', () => {
  const files = (postgres: string, redis: string) => ({
    '/etc/outrider/config/outrider.yaml': manifestOf('sidecar-setup.yaml', 'ConfigMap').data['outrider.yaml'],
    '/etc/outrider/postgres/url': postgres,
    '/etc/outrider/owner/url': postgres,
    '/etc/outrider/redis/url': redis,
  })
  const somewhere = files('postgres://shop_relay:secret@db.example.com/shop', 'redis://redis.example.com')

  it('is a sidecar: started first, again by itself, stopped last, and asked for nothing but a sign of life', () => {
    expect(relay).toMatchObject({ restartPolicy: 'Always', args: ['relay'] })
    expect(relay.readinessProbe).toBeUndefined()
    for (const probe of ['startupProbe', 'livenessProbe'] as const) {
      expect(relay[probe]).toMatchObject({ httpGet: { path: '/livez', port: 'outrider' } })
    }
    const { drainTimeout, http } = loadConfig({ env: environmentOf(relay, somewhere) })
    expect(relay.ports).toEqual([{ name: 'outrider', containerPort: http.port }])
    expect(web.spec.template.spec.terminationGracePeriodSeconds).toBeGreaterThan(30 + drainTimeout / 1000)
    // What is mounted is the relay's alone.
    expect(app.volumeMounts).toBeUndefined()
  })

  it('and the containers of its setup are configured with what Outrider knows', () => {
    const steps = containersIn(job)
    expect(steps.map(({ args }) => (args as string[])[0])).toEqual(['check', 'setup'])
    for (const container of [relay, ...steps]) {
      const config = loadConfig({ env: environmentOf(container, somewhere) })
      expect(config).toMatchObject({ slot: 'outrider_shop', source: '/shop' })
      const volumes = [job, web].flatMap((object) =>
        object.spec.template.spec.volumes.map(({ name }: Container) => name),
      )
      for (const { name } of container.volumeMounts ?? []) expect(volumes).toContain(name)
    }
    const options = { check: check.options, setup: setup.options }
    for (const { args } of steps) {
      const [command, ...rest] = args as ['check' | 'setup', ...string[]]
      const flags = rest.flatMap((arg) => (arg.startsWith('--') ? [arg.slice(2)] : []))
      for (const flag of flags) expect(Object.keys(options[command])).toContain(flag)
    }
  })

  it('holds up no pod: it lives, also where neither Postgres nor Redis is there', async () => {
    const dead = files(
      `postgres://shop_relay@127.0.0.1:${await freePort()}/shop`,
      `redis://127.0.0.1:${await freePort()}`,
    )
    const started = await RelayProcess.start(environmentOf(relay, dead))
    try {
      await started.is({ role: 'starting', state: 'reconnecting' })
      expect((await fetch(`http://127.0.0.1:${started.httpPort}/livez`)).status).toBe(200)
      expect(await started.stop()).toBe(0)
    } finally {
      if (started.isRunning) await started.kill()
    }
  })
})

function containersIn({ spec }: Fields): Container[] {
  return containersOf(spec.template.spec) as Container[]
}

const wordsOf = (line: string): [string, ...string[]] => line.split(' ') as [string, ...string[]]

/** The labels of each gauge that a consumer exports for every stream of its group. */
async function gauges(): Promise<Map<string, string[]>> {
  const registry = new Registry()
  const state = { stream: 'orders', pending: 1, oldestPendingSeconds: 1, lag: 1 }
  const none = () => 0
  const counts = { running: none, waiting: none, held: none, idleSeconds: none, oldestRunningSeconds: none }
  const backoff = () => [{ stream: 'orders', count: 1, oldestSeconds: 1 }]
  const watched = { group: 'g', ...counts, streams: () => [state], backoff, breakers: () => [] }
  createConsumerMetrics(registry, 'g', watched)
  const metrics = await registry.getMetricsAsJSON()
  return new Map(
    metrics.flatMap(({ name, values }) => (values[0] ? [[name, Object.keys(values[0].labels).toSorted()]] : [])),
  )
}
