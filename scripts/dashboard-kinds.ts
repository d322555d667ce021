/** The kinds of panel that the dashboard has. Expressions are written as scripts/dashboard.ts reads them. */

interface Target {
  expr: string
  legend: string
  /** Whether the panel shows the last value and not a range. */
  instant: boolean
  format?: 'table'
}

export interface Panel {
  type: 'row' | 'stat' | 'timeseries' | 'state-timeline' | 'table'
  title: string
  description: string
  size: { w: number; h: number }
  targets: Target[]
  [more: string]: unknown
}

/** A colour, then pairs of a bound and the colour from there on. */
type Steps = readonly [string, ...(number | string)[]]

const LEGEND = { displayMode: 'list', placement: 'bottom' }

export const row = (title: string): Panel => ({
  type: 'row',
  title,
  description: '',
  size: { w: 24, h: 1 },
  targets: [],
})

/** What every panel shows its values by. */
function fields(unit: string, color: string, [first, ...more]: Steps = ['green'], mappings: object[] = []): object {
  const steps: object[] = [{ color: first, value: null }]
  for (let n = 0; n < more.length; n += 2) steps.push({ color: more[n + 1], value: more[n] })
  return { unit, color: { mode: color }, mappings, thresholds: { mode: 'absolute', steps } }
}

/** The last value of one expression. */
export function stat(title: string, description: string, unit: string, expr: string, steps: Steps): Panel {
  return {
    type: 'stat',
    title,
    description,
    size: { w: 4, h: 4 },
    targets: [{ expr, legend: '__auto', instant: true }],
    fieldConfig: { defaults: { ...fields(unit, 'thresholds', steps), custom: {} }, overrides: [] },
    options: {
      reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
      colorMode: 'value',
      graphMode: 'none',
      justifyMode: 'auto',
      orientation: 'auto',
      textMode: 'auto',
    },
  }
}

/** Expressions over time, by their legends. */
export function graph(
  title: string,
  description: string,
  unit: string,
  exprs: Record<string, string>,
  { width = 8, stacked = false } = {},
): Panel {
  const custom = {
    drawStyle: 'line',
    lineWidth: 1,
    fillOpacity: stacked ? 20 : 8,
    showPoints: 'never',
    spanNulls: false,
    stacking: { mode: stacked ? 'normal' : 'none', group: 'A' },
  }
  return {
    type: 'timeseries',
    title,
    description,
    size: { w: width, h: 8 },
    targets: Object.entries(exprs).map(([legend, expr]) => ({ expr, legend, instant: false })),
    fieldConfig: { defaults: { ...fields(unit, 'palette-classic'), custom, min: 0 }, overrides: [] },
    options: { legend: { ...LEGEND, showLegend: true }, tooltip: { mode: 'multi', sort: 'desc' } },
  }
}

/** The median and the 99th percentile of a histogram. */
export function quantiles(histogram: string, labels: readonly string[] = []): Record<string, string> {
  const prefix = labels.map((label) => `{{${label}}} `).join('')
  const of = (quantile: number) =>
    `histogram_quantile(${quantile}, sum by (${['le', ...labels].join(', ')}) (rate(${histogram}_bucket[rate])))`
  return { [`${prefix}p50`]: of(0.5), [`${prefix}p99`]: of(0.99) }
}

/** Which of several states it was, over time. States are numbered from `first` in the order of their colours. */
export function timeline(
  title: string,
  description: string,
  width: number,
  { legend, expr, colors, first = 1 }: { legend: string; expr: string; colors: Record<string, string>; first?: number },
): Panel {
  const options = Object.fromEntries(
    Object.entries(colors).map(([text, color], index) => [`${index + first}`, { text, color, index }]),
  )
  const shown = fields('short', 'thresholds', ['green'], [{ type: 'value', options }])
  return {
    type: 'state-timeline',
    title,
    description,
    size: { w: width, h: 6 },
    targets: [{ expr, legend, instant: false }],
    fieldConfig: { defaults: { ...shown, custom: { lineWidth: 0, fillOpacity: 80 } }, overrides: [] },
    options: {
      mergeValues: true,
      showValue: 'auto',
      rowHeight: 0.8,
      alignValue: 'left',
      legend: { ...LEGEND, showLegend: false },
      tooltip: { mode: 'single', sort: 'none' },
    },
  }
}

/** A timeline of a metric that has a series for each state, 1 for the one that it is in. */
export function states(
  title: string,
  description: string,
  width: number,
  {
    metric,
    label,
    by = '',
    legend,
    colors,
  }: Record<'metric' | 'label' | 'legend', string> & {
    by?: string
    colors: Record<string, string>
  },
): Panel {
  const terms = Object.keys(colors).map((state, index) => `${index + 1} * (${metric}{${label}="${state}"} == 1)`)
  return timeline(title, description, width, { legend, expr: `max${by}(\n  ${terms.join('\n  or ')}\n)`, colors })
}

/** The labels of the series of one expression. */
export function table(title: string, description: string, expr: string): Panel {
  return {
    type: 'table',
    title,
    description,
    size: { w: 12, h: 8 },
    targets: [{ expr, legend: '__auto', instant: true, format: 'table' }],
    fieldConfig: { defaults: { ...fields('short', 'thresholds'), custom: {} }, overrides: [] },
    options: { showHeader: true, cellHeight: 'sm' },
    transformations: [
      {
        id: 'organize',
        options: { excludeByName: { Time: true, Value: true }, indexByName: {}, renameByName: {} },
      },
    ],
  }
}
