/** What an expression in PromQL asks of the metrics it names. Enough of a parser for expressions of our own. */
export interface Asked {
  /** Each metric, with the labels that it is selected by. */
  metrics: { name: string; labels: Record<string, string> }[]
  /** Labels that results are grouped or matched by. */
  grouping: string[]
}

const METRIC = /(?<![\w$:])((?:outrider|process|nodejs)_\w+|up)\b(?!\s*\()(?:\{([^}]*)\})?/g
const MATCHER = /(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"/g
const GROUPING = /\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^)]*)\)/g

export function askedBy(expr: string): Asked {
  const metrics = [...expr.matchAll(METRIC)].map(([, name = '', selector = '']) => ({
    name,
    labels: Object.fromEntries([...selector.matchAll(MATCHER)].map(([, label = '', , value = '']) => [label, value])),
  }))
  const grouping = [...expr.matchAll(GROUPING)].flatMap(([, labels = '']) =>
    labels.split(',').map((name) => name.trim()),
  )
  return { metrics, grouping: grouping.filter((name) => name !== '') }
}

/** What Prometheus adds to every series of a target, and the bound of a histogram's bucket. */
export const TARGET_LABELS = ['namespace', 'job', 'pod', 'instance']
