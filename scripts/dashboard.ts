import { writeFileSync } from 'node:fs'
import { panels } from './dashboard-panels.js'

/** Writes charts/outrider/files/dashboard.json. The panels are in scripts/dashboard-panels.ts. */
export const DASHBOARD = new URL('../charts/outrider/files/dashboard.json', import.meta.url)

// biome-ignore lint/suspicious/noTemplateCurlyInString: a variable of Grafana
const PROMETHEUS = { type: 'prometheus', uid: '${datasource}' }

/** A variable that Grafana fills with the values of a label. `several`: any number of them, all at first. */
function labelVariable(name: string, label: string, values: string, several = false): object {
  return {
    type: 'query',
    name,
    label,
    datasource: PROMETHEUS,
    definition: `label_values(${values})`,
    query: { query: `label_values(${values})`, refId: 'StandardVariableQuery' },
    refresh: 2,
    sort: 1,
    multi: several,
    includeAll: several,
    allValue: several ? '.*' : null,
    current: several ? { text: 'All', value: ['$__all'] } : {},
    hide: 0,
    options: [],
    regex: '',
  }
}

/** The dashboard as Grafana imports it. */
export function dashboardJson(): string {
  const dashboard = {
    title: 'Outrider',
    uid: 'outrider',
    tags: ['outrider'],
    description:
      'From the Postgres outbox to Redis Streams, and the groups that read them. docs/alerts.md says what to do.',
    editable: true,
    graphTooltip: 1,
    id: null,
    links: [],
    annotations: { list: [] },
    refresh: '30s',
    schemaVersion: 41,
    time: { from: 'now-3h', to: 'now' },
    timepicker: {},
    timezone: 'browser',
    version: 1,
    weekStart: '',
    templating: {
      list: [
        {
          type: 'datasource',
          name: 'datasource',
          label: 'Prometheus',
          query: 'prometheus',
          current: {},
          hide: 0,
          includeAll: false,
          multi: false,
          options: [],
          refresh: 1,
          regex: '',
        },
        labelVariable('namespace', 'Namespace', 'outrider_build_info, namespace'),
        labelVariable('job', 'Relay', 'outrider_build_info{namespace=~"$namespace"}, job'),
        labelVariable('group', 'Consumer group', 'outrider_consumer_running, group', true),
      ],
    },
    panels: placed(),
  }
  return `${JSON.stringify(dashboard, undefined, 2)}\n`
}

/** The panels from left to right; one that does not fit beside the others begins a new line below the highest of them. */
function placed(): object[] {
  let [x, y, height] = [0, 0, 0]
  return panels.map(({ size, targets, type, title, description, ...rest }, index) => {
    if (x + size.w > 24) [x, y, height] = [0, y + height, 0]
    const gridPos = { x, y, ...size }
    x += size.w
    height = Math.max(height, size.h)
    const id = index + 1
    if (type === 'row') return { type, title, collapsed: false, id, gridPos, panels: [] }
    return {
      type,
      title,
      description,
      id,
      datasource: PROMETHEUS,
      gridPos,
      targets: targets.map(({ expr, legend, instant, ...more }, n) => ({
        refId: String.fromCharCode(65 + n),
        datasource: PROMETHEUS,
        editorMode: 'code',
        expr: scoped(expr),
        legendFormat: legend,
        instant,
        range: !instant,
        ...more,
      })),
      ...rest,
    }
  })
}

/**
 * An expression with the dashboard's variables: the series of the chosen relay, those of consumers of the chosen groups;
 * `[rate]` is Grafana's range for rates.
 */
function scoped(expr: string): string {
  return expr
    .replace(/\b((?:outrider|process|nodejs)_\w+)(?:\{([^}]*)\})?/g, (_, name: string, given?: string) => {
      const own = name.startsWith('outrider_consumer_')
        ? ['group=~"$group"']
        : ['namespace=~"$namespace"', 'job=~"$job"']
      return `${name}{${[...own, ...(given ? [given] : [])].join(',')}}`
    })
    .replaceAll('[rate]', '[$__rate_interval]')
}

if (process.argv[1] === import.meta.filename) writeFileSync(DASHBOARD, dashboardJson())
