import { beforeAll, describe, expect, it } from 'vitest'
import { BUILD_TIMEOUT, prepare } from '../support/go.js'
import { type Helm, helm, helmPath } from '../support/helm.js'
import { promtool, promtoolPath } from '../support/promtool.js'
import { askedBy } from './promql.js'
import { render } from './render.js'
import { REQUIRED, yamlFile } from './rules.js'

interface Panel {
  id: number
  type: string
  title: string
  gridPos: { x: number; y: number; w: number; h: number }
  datasource?: { type: string; uid: string }
  targets?: { expr: string; datasource: { uid: string } }[]
}

interface Dashboard {
  uid: string
  schemaVersion: number
  templating: { list: { name: string; type: string; query: string | { query: string } }[] }
  panels: Panel[]
}

beforeAll(async () => {
  await prepare(helmPath)
  await prepare(promtoolPath)
}, BUILD_TIMEOUT)

async function configMap(chart: Helm, dashboard: object = {}) {
  const objects = await render(chart, { values: { ...REQUIRED, dashboard: { enabled: true, ...dashboard } } })
  const found = objects.find(({ kind, metadata }) => kind === 'ConfigMap' && metadata.name.endsWith('-dashboard'))
  if (!found) throw new Error('Expected the chart to render a dashboard, found none')
  return found as typeof found & { data: Record<string, string> }
}

async function dashboardOf(chart: Helm): Promise<Dashboard> {
  return JSON.parse((await configMap(chart)).data['outrider.json'] as string)
}

const expressionsOf = ({ panels }: Dashboard) =>
  panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })))

describe('the dashboard', () => {
  it('is a ConfigMap that the sidecar of Grafana finds, or whoever else looks for it', async (context) => {
    const chart = await helm(context)
    expect((await configMap(chart)).metadata.labels).toMatchObject({ grafana_dashboard: '1' })
    const dashboard = { labels: { grafana_dashboard: 'shop' }, annotations: { grafana_folder: 'Outrider' } }
    expect((await configMap(chart, dashboard)).metadata).toMatchObject({
      labels: { grafana_dashboard: 'shop' },
      annotations: { grafana_folder: 'Outrider' },
    })
    const objects = await render(chart, { values: REQUIRED })
    expect(objects.filter(({ metadata }) => metadata.name.endsWith('-dashboard'))).toEqual([])
  })

  it('asks what Prometheus can read', async (context) => {
    const [chart, tool] = [await helm(context), await promtool(context)]
    const rules = expressionsOf(await dashboardOf(chart)).map(({ expr }, n) => ({
      record: `panel:${n}`,
      expr: expr.replaceAll('$__rate_interval', '5m').replaceAll(/\$(namespace|job|group)/g, 'x'),
    }))
    expect(rules.length).toBeGreaterThan(40)
    expect(JSON.stringify(rules)).not.toContain('$')
    const file = yamlFile('panels.yaml', { groups: [{ name: 'panels', rules }] })
    expect(await tool.run('check', 'rules', file)).toContain(`${rules.length} rules found`)
  })

  it('counts once what two halted relays both tell', async (context) => {
    const [chart, tool] = [await helm(context), await promtool(context)]
    const { panels } = await dashboardOf(chart)
    const asked = (title: string) =>
      (panels.find((panel) => panel.title === title)?.targets?.[0]?.expr ?? `no panel ${title}`)
        .replaceAll('$__rate_interval', '5m')
        .replaceAll(/\$(namespace|job)/g, 'shop')
    const series = (name: string, more: string, values: string) =>
      ['a', 'b'].map((pod) => ({ series: `${name}{namespace="shop",job="shop",pod="${pod}",${more}}`, values }))
    const file = yamlFile('tests.yaml', {
      tests: [
        {
          interval: '30s',
          input_series: [
            ...series('outrider_open_incidents', 'kind="gap"', '1x20'),
            ...series('outrider_open_incidents', 'kind="rejected"', '3x20'),
            ...series('outrider_blocked_seconds_total', 'reason="postgres_unreachable"', '0+30x20'),
          ],
          promql_expr_test: [
            { expr: asked('Open incidents'), eval_time: '10m', exp_samples: [{ labels: '{}', value: 4 }] },
            {
              expr: asked('Blocked, by reason'),
              eval_time: '10m',
              exp_samples: [{ labels: '{reason="postgres_unreachable"}', value: 1 }],
            },
          ],
        },
      ],
    })
    await tool.run('test', 'rules', file)
  })

  it('lets someone choose the Prometheus, the relay and the groups, and every panel follows', async (context) => {
    const dashboard = await dashboardOf(await helm(context))
    expect(dashboard.templating.list.map(({ name }) => name)).toEqual(['datasource', 'namespace', 'job', 'group'])
    for (const { title, targets = [], datasource, type } of dashboard.panels) {
      if (type === 'row') continue
      expect(datasource?.uid, title).toMatch(/^\$\{datasource\}$/)
      expect(targets.length, title).toBeGreaterThan(0)
      for (const target of targets) {
        expect(target.datasource.uid, title).toMatch(/^\$\{datasource\}$/)
        for (const { name, matchers } of askedBy(target.expr).metrics) {
          const expected = name.startsWith('outrider_consumer_')
            ? ['group=~"$group"']
            : ['namespace=~"$namespace"', 'job=~"$job"']
          expect(matchers, `${title}: ${name}`).toEqual(expect.arrayContaining(expected))
        }
      }
    }
  })

  it('has rows in the order of the questions, and panels next to and below each other', async (context) => {
    const { panels, schemaVersion } = await dashboardOf(await helm(context))
    expect(schemaVersion).toBeGreaterThanOrEqual(39)
    expect(panels.filter(({ type }) => type === 'row').map(({ title }) => title)).toEqual([
      'Health',
      'WAL and the slot',
      'Outbox',
      'Streams and dead letters',
      'Throughput and events in flight',
      'Blocked and rejected',
      'Redis and durability',
      'Errors, sessions, process',
      'Consumers',
    ])
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length)
    const taken = new Set<string>()
    for (const { title, gridPos } of panels) {
      expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24)
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          expect(taken.has(`${x},${y}`), `${title} covers another panel`).toBe(false)
          taken.add(`${x},${y}`)
        }
      }
    }
  })
})
