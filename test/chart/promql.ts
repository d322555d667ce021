import { parser } from '@prometheus-io/lezer-promql'

/** What an expression in PromQL asks of the metrics it names. */
export interface Asked {
  /** Each metric, with the labels that it is selected by, and the matchers of these as they are written. */
  metrics: { name: string; labels: Record<string, string>; matchers: string[] }[]
  /** Labels that results are grouped or matched by. */
  grouping: string[]
}

/** Reads an expression with Prometheus' own grammar. Grafana's range for rates may stand in it. Throws where it is wrong. */
export function askedBy(expression: string): Asked {
  const expr = expression.replaceAll('$__rate_interval', '5m')
  const text = ({ from, to }: { from: number; to: number }) => expr.slice(from, to)
  const asked: Asked = { metrics: [], grouping: [] }
  parser.parse(expr).iterate({
    enter({ node, name, type }) {
      if (type.isError) throw new Error(`Expected PromQL, found at ${node.from}: ${expr}`)
      if (name === 'GroupingLabels') asked.grouping.push(...node.getChildren('LabelName').map(text))
      if (name !== 'VectorSelector') return
      const matchers = node.getChild('LabelMatchers')?.getChildren('UnquotedLabelMatcher') ?? []
      const labels = matchers.map((matcher) => [
        text(matcher.getChild('LabelName')!),
        JSON.parse(text(matcher.getChild('StringLiteral')!)),
      ])
      const metric = text(node.getChild('Identifier')!)
      asked.metrics.push({ name: metric, labels: Object.fromEntries(labels), matchers: matchers.map(text) })
    },
  })
  return asked
}

/** What Prometheus adds to every series of a target, and the bound of a histogram's bucket. */
export const TARGET_LABELS = ['namespace', 'job', 'pod', 'instance']
