import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { stringify } from 'yaml'
import { scratch } from '../../testkit/services/folder.js'
import { BUILD_TIMEOUT, prepare } from '../support/go.js'
import { helm, helmPath } from '../support/helm.js'
import { promtool, promtoolPath } from '../support/promtool.js'
import { CASES } from './alert-cases.js'
import { END, gone, HEALTH, newcomer, ONSET, type Series, turning } from './alert-health.js'
import { QUIET } from './alert-quiet.js'
import { rollouts, SCRAPES } from './alert-rollout.js'
import { askedBy } from './promql.js'
import { CHART, refusal } from './render.js'
import { REQUIRED, renderRules, rulesOf, yamlFile } from './rules.js'

const runbooks = readFileSync(new URL('../../docs/alerts.md', import.meta.url), 'utf8')
const sections = [...runbooks.matchAll(/^### (\w+)$/gm)].map(([, name]) => name)

beforeAll(async () => {
  await prepare(helmPath)
  await prepare(promtoolPath)
}, BUILD_TIMEOUT)

/** What fires at a minute: promtool says which series it expected and which it found. */
const fires = (minute: number, alerts: string[]) => ({
  expr: 'count by (alertname) (ALERTS{alertstate="firing"})',
  eval_time: `${minute}m`,
  exp_samples: alerts.map((alertname) => ({ labels: `{alertname="${alertname}"}`, value: 1 })),
})

/** Whatever fired at any minute from this one to the end. The first half hour is not well: see below. */
const fired = (since: number, alerts: string[]) => ({
  ...fires(END, alerts),
  expr: `count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[${END - since}m]))`,
  exp_samples: alerts.map((alertname) => ({ labels: `{alertname="${alertname}"}`, value: 1 })),
})

/** `every`: how often Prometheus evaluates the rules. */
const tests = (rules: string, series: Record<string, string | undefined>, expected: object[], every = '1m') =>
  yamlFile('tests.yaml', {
    rule_files: [rules],
    evaluation_interval: every,
    tests: [
      {
        interval: '1m',
        input_series: Object.entries(series).flatMap(([name, values]) =>
          values === undefined ? [] : [{ series: name, values }],
        ),
        promql_expr_test: expected,
      },
    ],
  })

describe('alerts', () => {
  it('are rules that Prometheus reads', async (context) => {
    const [chart, tool] = [await helm(context), await promtool(context)]
    const rules = await renderRules(chart, { consumers: { groups: ['billing', 'mail'] } })
    expect(await tool.run('check', 'rules', yamlFile('rules.yaml', rules))).toContain(
      `${rulesOf(rules).length} rules found`,
    )
  })

  it('are silent while all is well', async (context) => {
    const [chart, tool] = [await helm(context), await promtool(context)]
    const rules = yamlFile('rules.yaml', await renderRules(chart))
    // Half an hour is how long a counter that Prometheus sees for the first time counts as risen.
    await tool.run('test', 'rules', tests(rules, HEALTH, [fires(35, []), fires(ONSET, []), fires(END, [])]))
  })

  let rules: string | undefined
  it.for(CASES)('$alert fires when $what', async ({ alert, wrong, also = [] }, context) => {
    const [chart, tool] = [await helm(context), await promtool(context)]
    rules ??= yamlFile('rules.yaml', await renderRules(chart))
    const series: Record<string, string | undefined> = { ...HEALTH, ...wrong }
    const firing = [alert, ...also]
    // Nothing here passes between two evaluations, and each costs time.
    await tool.run('test', 'rules', tests(rules, series, [fires(ONSET - 1, []), fires(END, firing)], '5m'))
  })

  it.for(QUIET)('are silent when $what', async ({ wrong }, context) => {
    const [chart, tool] = [await helm(context), await promtool(context)]
    rules ??= yamlFile('rules.yaml', await renderRules(chart))
    await tool.run('test', 'rules', tests(rules, { ...HEALTH, ...wrong }, [fired(35, [])]))
  })

  it('take no rollout, nor its rollback, for a connection that breaks', async (context) => {
    const [chart, tool] = [await helm(context), await promtool(context)]
    const rules = rulesOf(await renderRules(chart)).filter(({ alert }) => alert === 'OutriderReconnecting')
    const file = yamlFile('tests.yaml', {
      rule_files: [yamlFile('rules.yaml', { groups: [{ name: 'reconnecting', rules }] })],
      evaluation_interval: '15s',
      tests: SCRAPES.map((seconds) => ({
        interval: `${seconds}s`,
        input_series: Object.entries(rollouts(seconds)).map(([series, values]) => ({ series, values })),
        promql_expr_test: [
          {
            expr: 'count(count_over_time(ALERTS{alertname="OutriderReconnecting",alertstate="firing"}[2h])) or vector(0)',
            eval_time: '90m',
            exp_samples: [{ labels: '{}', value: 0 }],
          },
          {
            // That there was something to take for it.
            expr: 'count(count_over_time(ALERTS{alertname="OutriderReconnecting",alertstate="pending"}[2h])) or vector(0)',
            eval_time: '90m',
            exp_samples: [{ labels: '{}', value: 1 }],
          },
        ],
      })),
    })
    await tool.run('test', 'rules', file)
  })

  it('are each tried, and each have a section in docs/alerts.md', async (context) => {
    const names = rulesOf(await renderRules(await helm(context))).map(({ alert }) => alert)
    expect(new Set(names).size).toBe(names.length)
    expect([...new Set(CASES.map(({ alert }) => alert))].sort()).toEqual([...names].sort())
    expect([...sections].sort()).toEqual([...names].sort())
  })

  it('say what it means and what to do, how bad it is, and where the runbook is', async (context) => {
    const rules = rulesOf(await renderRules(await helm(context), { runbookUrl: 'https://runbooks.example.com/#' }))
    for (const { alert, expr, for: duration, labels, annotations } of rules) {
      expect(labels.severity, alert).toMatch(/^(warning|critical)$/)
      expect(duration, alert).toMatch(/^\d+[mh]$/)
      expect(annotations.summary?.length, alert).toBeGreaterThan(20)
      expect(annotations.description?.length, alert).toBeGreaterThan(100)
      expect(annotations.runbook_url).toBe(`https://runbooks.example.com/#${alert.toLowerCase()}`)
      const text = `${annotations.summary} ${annotations.description}`
      const named = [...text.matchAll(/\$labels\.(\w+)/g)].map(([, label]) => label)
      expect(askedBy(expr).grouping, alert).toEqual(expect.arrayContaining(named))
      expect(`${expr} ${text}`.replaceAll(/\$(labels|value)\b/g, ''), alert).not.toContain('$')
    }
    expect(rulesOf(await renderRules(await helm(context)))[0]?.annotations).not.toHaveProperty('runbook_url')
  })

  it('look at the series of this release alone', async (context) => {
    const chart = await helm(context)
    const matchersOf = async (prometheusRule: object, names: RegExp) =>
      rulesOf(await renderRules(chart, prometheusRule)).flatMap(({ expr }) =>
        askedBy(expr).metrics.flatMap(({ name, labels }) => (names.test(name) ? [labels] : [])),
      )
    const relay = /^(up|process_.*|outrider_(?!consumer).*)$/
    const own = { namespace: 'shop', job: 'shop-outrider' }
    for (const labels of await matchersOf({}, relay)) expect(labels).toMatchObject(own)
    for (const labels of await matchersOf({ matchers: 'cluster="eu"' }, relay)) {
      expect(labels).toMatchObject({ cluster: 'eu' })
      expect(labels).not.toHaveProperty('job')
    }
    for (const labels of await matchersOf({ consumers: { matchers: 'team="a"' } }, /^outrider_consumer/)) {
      expect(labels).toMatchObject({ team: 'a' })
    }
  })

  it('have thresholds, durations and severities of your own', async (context) => {
    const [chart, tool] = [await helm(context), await promtool(context)]
    const rules = await renderRules(chart, {
      ruleLabels: { team: 'payments' },
      thresholds: { OutriderEventsLate: { seconds: 2.5, for: '30m', severity: 'info' } },
    })
    const late = rulesOf(rules).find(({ alert }) => alert === 'OutriderEventsLate')
    expect(late).toMatchObject({ for: '30m', labels: { severity: 'info', team: 'payments' } })
    expect(late?.expr.match(/> 2\.5\b/g)).toHaveLength(2)
    const series: Series = { ...HEALTH }
    for (const name of Object.keys(series)) if (name.includes('inflight_oldest')) series[name] = `0x${ONSET - 1} 3x99`
    const file = yamlFile('rules.yaml', rules)
    const expected = [fires(ONSET + 29, []), fires(ONSET + 31, ['OutriderEventsLate'])]
    await tool.run('test', 'rules', tests(file, series, expected))
  })

  it('can be left out, and more can be added', async (context) => {
    const chart = await helm(context)
    const more = { alert: 'Ours', expr: 'vector(1)' }
    const all = rulesOf(await renderRules(chart)).map(({ alert }) => alert)
    const some = rulesOf(
      await renderRules(chart, {
        exclude: ['OutriderReconnecting', 'OutriderDeadLetters'],
        additionalRules: [more],
        consumers: { enabled: true },
      }),
    ).map(({ alert }) => alert)
    expect(some).toEqual([
      ...all.filter((alert) => alert !== 'OutriderReconnecting' && alert !== 'OutriderDeadLetters'),
      'Ours',
    ])
    const alone = rulesOf(await renderRules(chart, { consumers: { enabled: false } }))
    expect(alone.filter(({ expr }) => expr.includes('consumer'))).toEqual([])
    const metrics = { prometheusRule: { enabled: true, exclude: ['OutriderReconecting'] } }
    // Also where the cluster does not know the kind, so that a pipeline without a cluster finds it.
    for (const apiVersions of [undefined, []]) {
      const refused = await refusal(chart, { values: { ...REQUIRED, metrics }, ...(apiVersions && { apiVersions }) })
      expect(refused).toContain('found OutriderReconecting')
    }
  })

  it.for([
    { form: 'one replica', values: { replicaCount: 1 } },
    { form: 'the sidecar form', values: { deployment: { enabled: false } } },
  ])('miss no standby with $form, only what runs and is not ready', async ({ values }, context) => {
    const [chart, tool] = [await helm(context), await promtool(context)]
    const rules = yamlFile('rules.yaml', await renderRules(chart, {}, { values }))
    const alone = { ...HEALTH, ...gone('pod="b"') }
    await tool.run('test', 'rules', tests(rules, alone, [fired(35, [])]))
    const stuck = { ...alone, [newcomer('halted')]: turning('_', 1) }
    await tool.run('test', 'rules', tests(rules, stuck, [fires(END, ['OutriderStandbyMissing'])]))
  })

  it.for([
    ...[{ for: '5mins' }, { for: '' }, { for: '5 m' }, { for: '1.5h' }, { for: '1m1h' }, { for: 5 }],
    ...[{ window: '1day' }, { window: '0' }, { window: '0s' }, { window: '' }],
  ])('are refused with %j, which Prometheus cannot read', async (threshold, context) => {
    const prometheusRule = { thresholds: { OutriderDurabilityLowered: threshold } }
    const [key] = Object.keys(threshold)
    expect(await refusal(await helm(context), { values: { ...REQUIRED, metrics: { prometheusRule } } })).toMatch(
      new RegExp(`thresholds[./]OutriderDurabilityLowered[./]${key}`),
    )
  })

  it('take every duration that Prometheus can read', async (context) => {
    const [chart, tool] = [await helm(context), await promtool(context)]
    for (const duration of ['1h30m', '90s', '500ms', '1y2w3d4h5m6s7ms', '10m']) {
      const threshold = { for: duration, window: duration }
      const rules = await renderRules(chart, { thresholds: { OutriderDurabilityLowered: threshold } })
      await tool.run('check', 'rules', yamlFile('rules.yaml', rules))
    }
    await renderRules(chart, { thresholds: { OutriderBlocked: { for: '0' } } })
  })

  it('have a threshold whose name begins another', async (context) => {
    const chart = join(scratch('chart'), 'outrider')
    cpSync(CHART, chart, { recursive: true })
    rmSync(join(chart, 'values.schema.json'))
    const ours = {
      alert: 'OutriderBlocked',
      summary: 'after $lag',
      expr: '$lag < $lagBytes and $relayed{$relay} > $lags',
    }
    writeFileSync(join(chart, 'files/alerts/relay.yaml'), stringify([ours]))
    const thresholds = { OutriderBlocked: { lag: 5, lagBytes: 1024 } }
    const [rule] = rulesOf(await renderRules(await helm(context), { matchers: 'a="$b"', thresholds }, { chart }))
    expect(rule?.expr).toBe('5 < 1024 and $relayed{a="$b"} > $lags')
    expect(rule?.annotations.summary).toBe('after 5')
  })

  it('miss a consumer group that never was there, where it is named', async (context) => {
    const [chart, tool] = [await helm(context), await promtool(context)]
    const rules = yamlFile('rules.yaml', await renderRules(chart, { consumers: { groups: ['billing', 'mail'] } }))
    await tool.run('test', 'rules', tests(rules, HEALTH, [fires(END, ['OutriderConsumerGone'])]))
  })
})
