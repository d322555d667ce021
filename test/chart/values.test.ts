import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { chartReadme } from '../../scripts/chart-docs.js'
import { chartSchema } from '../../scripts/chart-schema.js'
import { BUILD_TIMEOUT, prepare } from '../support/go.js'
import { helm, helmPath } from '../support/helm.js'
import { CHART, refusal, render, VALUES } from './render.js'
import type { KubernetesObject } from './schemas.js'

beforeAll(() => prepare(helmPath), BUILD_TIMEOUT)

const RIGHT = {
  image: { repository: 'registry.example.com/outrider' },
  postgres: { url: 'postgres://shop_relay@db:5432/shop', existingSecret: 'shop-relay' },
  redis: { url: 'redis://redis:6379' },
}

/** What is laid over the right values, and what Helm says to that. */
const REFUSED: [what: string, values: object, expected: string | RegExp][] = [
  [
    'less time to drain than it may take',
    { config: { drainTimeout: '40s' } },
    'terminationGracePeriodSeconds: expected more than config.drainTimeout (40 s)',
  ],
  [
    'a port that its policy keeps closed',
    { networkPolicy: { enabled: true }, redis: { url: 'rediss://redis:6380/0' } },
    'networkPolicy.redis.ports: expected 6380, as redis.url has it',
  ],
  [
    'a password with a slash',
    url('postgres', 'postgres://me:hunter/2@db/shop'),
    'postgres.url: expected a URL without',
  ],
  [
    'a password of the tester',
    { test: url('postgres', 'postgres://me:hunter2@db/shop') },
    'test.postgres.url: expected a URL without',
  ],
  [
    'a variable that moves the port',
    { extraEnv: [{ name: 'OUTRIDER_HTTP_PORT', value: '1' }] },
    'extraEnv: expected no OUTRIDER_HTTP_PORT',
  ],
  ['no image', { image: { repository: '' } }, 'image.repository: expected the name under which you pushed the image'],
  ['an image that is another one tomorrow', { image: { tag: 'latest' } }, 'image.tag: expected the tag of one version'],
  ['a tag in the name', { image: { repository: 'registry.example.com/outrider:latest' } }, /image[./]repository/],
  ['a tag with a digest', { image: { tag: '1.0.0@sha256:12' } }, /image[./]tag/],
  [
    'a password in a variable',
    { extraEnv: [{ name: 'OUTRIDER_POSTGRES_PASSWORD', value: 'hunter2' }] },
    'extraEnv: expected no OUTRIDER_POSTGRES_PASSWORD',
  ],
  [
    'a label that selects',
    { podLabels: { 'app.kubernetes.io/name': 'shop' } },
    'podLabels: expected labels of your own',
  ],
  [
    'an address that nobody can ask',
    { config: { http: { host: '127.0.0.1' } } },
    'config.http.host: expected an address of the pod',
  ],
  ['a budget of nothing', { podDisruptionBudget: { maxUnavailable: '0%' } }, /podDisruptionBudget[./]maxUnavailable/],
  ['a digest that is none', { image: { digest: 'sha256:12' } }, /image[./]digest/],
  [
    'no Postgres',
    { postgres: { url: '', existingSecret: '' } },
    'postgres: expected postgres.url (without a password)',
  ],
  ['no Redis', { redis: { url: '' } }, 'redis: expected redis.url (without a password)'],
  [
    'a password for Postgres',
    url('postgres', 'postgres://me:hunter2@db/shop'),
    'postgres.url: expected a URL without a password',
  ],
  [
    'one among the parameters',
    url('postgres', 'postgres://db/shop?password=hunter2'),
    'postgres.url: expected a URL without a password',
  ],
  [
    'one in other letters',
    url('postgres', 'postgres://db/shop?sslPassword=hunter2'),
    'postgres.url: expected a URL without',
  ],
  ['a password for Redis', url('redis', 'redis://:hunter2@redis:6379'), 'redis.url: expected a URL without a password'],
  [
    'a password with an @',
    url('redis', 'rediss://me:hunt@er2@redis:6379'),
    'redis.url: expected a URL without a password',
  ],
  [
    'a password of the owner',
    { setup: url('postgres', 'postgres://me:hunter2@db/shop') },
    'setup.postgres.url: expected a URL without a password',
  ],
  [
    'a key for sentinels in no Secret',
    { redis: { sentinel: { passwordKey: 'sentinel' } } },
    'redis.sentinel.passwordKey: expected redis.existingSecret',
  ],
  ['no relay', { replicaCount: 0 }, /replicaCount/],
  ['half a relay', { replicaCount: 1.5 }, /replicaCount/],
  [
    'a budget that holds every node',
    { podDisruptionBudget: { maxUnavailable: 0 } },
    /podDisruptionBudget[./]maxUnavailable/,
  ],
  ['a number of minAvailable', { podDisruptionBudget: { minAvailable: 1 } }, /minAvailable/],
  ['a port that nobody can ask', { config: { http: { port: 0 } } }, 'config.http.port: expected a port, found 0'],
  ['a teardown in words', { teardown: { enabled: 'yes' } }, /teardown[./]enabled/],
  ['a mode that is none', { metrics: { podMonitor: { renderMode: 'maybe' } } }, /renderMode/],
  [
    'two monitors',
    { metrics: { podMonitor: { enabled: true }, serviceMonitor: { enabled: true, renderMode: 'alwaysRender' } } },
    'every relay would be counted twice',
  ],
  [
    'no operator',
    { metrics: { podMonitor: { enabled: true, renderMode: 'failIfMissing' } } },
    'metrics.podMonitor: expected a cluster that knows PodMonitor',
  ],
  [
    'an alert that is none',
    { metrics: { prometheusRule: { enabled: true, renderMode: 'alwaysRender', exclude: ['OutriderLate'] } } },
    'metrics.prometheusRule.exclude: expected names of alerts, found OutriderLate',
  ],
  ['a setting misspelt', { config: { slott: 'shop' } }, /slott/],
  ['a setting misspelt deep within', { config: { streams: { orders: { partition: 16 } } } }, /partition/],
  ['a durability that is none', { config: { durability: 'strong' } }, /config[./]durability/],
  ['a URL among the settings', { config: { postgres: { url: 'postgres://me:hunter2@db/shop' } } }, /url/],
  ['a password among the settings', { config: { redis: { password: 'hunter2' } } }, /password/],
  ['a list of roles in words', { setup: { grants: { writer: 'shop' } } }, /grants[./]writer/],
  ['a time without a unit', { test: { wait: '30' } }, /test[./]wait/],
]

/** One of each section, wherever values are named. */
const MISSPELT = [
  ...['misspelt', 'image.misspelt', 'deployment.misspelt', 'postgres.misspelt', 'postgres.secretKeys.misspelt'],
  ...['postgres.tls.misspelt', 'postgres.cloudNativePG.misspelt', 'redis.misspelt', 'redis.sentinel.misspelt'],
  ...['redis.tls.misspelt', 'config.misspelt', 'config.limits.misspelt', 'setup.misspelt', 'setup.grants.misspelt'],
  ...['setup.check.misspelt', 'setup.postgres.misspelt', 'teardown.misspelt', 'test.misspelt'],
  ...['serviceAccount.misspelt', 'podDisruptionBudget.misspelt', 'service.misspelt', 'networkPolicy.misspelt'],
  ...['networkPolicy.postgres.misspelt', 'networkPolicy.redis.misspelt', 'metrics.misspelt'],
  ...['metrics.serviceMonitor.misspelt', 'metrics.podMonitor.misspelt', 'metrics.prometheusRule.misspelt'],
  ...[
    'metrics.prometheusRule.thresholds.misspelt',
    'metrics.prometheusRule.thresholds.OutriderBlocked.misspelt',
    'metrics.prometheusRule.consumers.misspelt',
    'dashboard.misspelt',
  ],
]

const values = (over: object) => ({ files: [], values: over, apiVersions: [] })

function url(server: string, url: string): object {
  return { [server]: { url } }
}

/** The right values with others laid over them. */
function over(right: object, wrong: object): object {
  const merged: Record<string, unknown> = { ...right }
  for (const [key, value] of Object.entries(wrong)) {
    const own = merged[key]
    const isDeep = own !== null && typeof own === 'object' && value !== null && typeof value === 'object'
    merged[key] = isDeep ? over(own, value) : value
  }
  return merged
}

const nested = (path: string): object =>
  path.split('.').reduceRight<object>((inner, key, at, keys) => ({ [key]: at === keys.length - 1 ? true : inner }), {})

test('the chart takes what is right', async (context) => {
  expect(await render(await helm(context), values(RIGHT))).not.toEqual([])
})

describe('the chart refuses', () => {
  test.for(REFUSED)('%s', async ([_what, wrong, expected], context) => {
    const said = await refusal(await helm(context), values(over(RIGHT, wrong)))
    expect(said).toMatch(expected)
    expect(said).not.toContain('hunter2')
  })

  test.for(MISSPELT)('the unknown %s', async (path, context) => {
    const said = await refusal(await helm(context), values(over(RIGHT, nested(path))))
    expect(said).toMatch(/misspelt/)
    expect(said).toMatch(/dditional propert/)
  })
})

test('a chart for an older Kubernetes than it needs is refused', async (context) => {
  const said = await refusal(await helm(context), { ...values(RIGHT), kubeVersion: '1.28.15' })
  expect(said).toContain('requires kubeVersion: >=1.29.0-0')
})

test('OpenShift may choose the user itself', async (context) => {
  const podSecurityContext = { runAsUser: null, runAsGroup: null, fsGroup: null }
  const objects = await render(await helm(context), values({ ...RIGHT, podSecurityContext }))
  expect(objects.find(({ kind }) => kind === 'Deployment')?.spec.template.spec.securityContext).toEqual({
    runAsNonRoot: true,
    fsGroupChangePolicy: 'OnRootMismatch',
    seccompProfile: { type: 'RuntimeDefault' },
  })
})

test('monitors are left out where the cluster does not know them, unless they must be', async (context) => {
  const tool = await helm(context)
  for (const renderMode of ['skipIfMissing', 'alwaysRender']) {
    const metrics = { podMonitor: { enabled: true, renderMode }, prometheusRule: { enabled: true, renderMode } }
    const kinds = (await render(tool, values({ ...RIGHT, metrics }))).map(({ kind }) => kind)
    const expected = renderMode === 'alwaysRender' ? ['PodMonitor', 'PrometheusRule'] : []
    expect(kinds.filter((kind) => /Monitor|Rule/.test(kind)).toSorted()).toEqual(expected)
  }
})

test('an install is what an upgrade is, but for the teardown: one that fails must not take a slot with it', async (context) => {
  const tool = await helm(context)
  const files = [VALUES.get('everything')!]
  const upgrade = await render(tool, { files })
  const install = await render(tool, { files, isUpgrade: false })
  const isTeardown = ({ metadata }: KubernetesObject) => metadata.name.endsWith('-teardown')
  expect(upgrade.filter(isTeardown)).not.toEqual([])
  expect(install).toEqual(upgrade.filter((object) => !isTeardown(object)))
})

test('a table of the team’s own has no test, for no one here knows what its rows must hold', async (context) => {
  const config = { outbox: { table: 'public.outboxevent', stream: '{topic}', columns: { id: 'id', type: 'type' } } }
  const objects = await render(await helm(context), values({ ...RIGHT, config }))
  expect(objects.filter(({ metadata }) => metadata.name.endsWith('-test'))).toEqual([])
})

// biome-ignore lint/suspicious/noExplicitAny: a schema.
type Schema = any

const schema: Schema = JSON.parse(readFileSync(join(CHART, 'values.schema.json'), 'utf8'))
const resolved = (one: Schema): Schema => (one.$ref ? schema.definitions[one.$ref.split('/').at(-1)] : one)

/** Paths of all values that a schema names, with what is said about them. What it refers to is described elsewhere. */
function described(one: Schema, path = ''): [string, string][] {
  return Object.entries<Schema>(one.properties ?? {}).flatMap(([key, inner]) => {
    const full = path === '' ? key : `${path}.${key}`
    const { description } = { ...resolved(inner), ...inner }
    return [[full, description] as [string, string], ...(inner.$ref ? [] : described(inner, full))]
  })
}

/** Paths of all values in values.yaml whose names are the chart's own. */
function defaults(values: object, one: Schema = schema, path = ''): string[] {
  return Object.entries(values).flatMap(([key, value]) => {
    const full = path === '' ? key : `${path}.${key}`
    const inner = one.properties?.[key] ?? {}
    return [full, ...(inner.properties ? defaults(value, inner, full) : [])]
  })
}

test('values.yaml and its schema name the same values, each with a description', () => {
  const inSchema = described(schema).filter(([path]) => path !== 'global')
  const inValues = defaults(parse(readFileSync(join(CHART, 'values.yaml'), 'utf8')))
  expect(inValues.toSorted()).toEqual(inSchema.map(([path]) => path).toSorted())
  for (const [path, description] of inSchema) expect(description, path).toMatch(/\w/)
})

test('the settings under config are those of the relay: npx tsx scripts/chart-schema.ts', () => {
  expect(readFileSync(join(CHART, 'values.schema.json'), 'utf8')).toBe(chartSchema())
})

test('the README lists every value: npx tsx scripts/chart-docs.ts', () => {
  expect(readFileSync(join(CHART, 'README.md'), 'utf8')).toBe(chartReadme())
})
