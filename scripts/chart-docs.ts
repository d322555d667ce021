import { readFileSync, writeFileSync } from 'node:fs'
import { parse } from 'yaml'

const CHART = new URL('../charts/outrider/', import.meta.url)
const README = new URL('README.md', CHART)
const START = '<!-- values: written by scripts/chart-docs.ts -->\n'
const END = '<!-- /values -->\n'

interface Schema {
  description?: string
  properties?: Record<string, Schema>
  definitions?: Record<string, Schema>
  $ref?: string
}

/** The chart's README, with the table of its values as values.yaml and values.schema.json have them. */
export function chartReadme(): string {
  const text = readFileSync(README, 'utf8')
  const start = text.indexOf(START)
  const end = text.indexOf(END)
  if (start < 0 || end < start) throw new Error(`Expected ${START.trim()} and ${END.trim()} in the chart's README`)
  return text.slice(0, start) + START + valuesTable() + text.slice(end)
}

function valuesTable(): string {
  const values = parse(readFileSync(new URL('values.yaml', CHART), 'utf8'))
  const schema: Schema = JSON.parse(readFileSync(new URL('values.schema.json', CHART), 'utf8'))
  const rows = rowsOf(schema, values, '', schema.definitions ?? {})
  return ['| value | default | |', '|---|---|---|', ...rows, ''].join('\n')
}

/** What has values of its own below it is told by these, unless the schema says elsewhere what they are. */
function rowsOf(
  schema: Schema,
  values: Record<string, unknown>,
  path: string,
  definitions: Record<string, Schema>,
): string[] {
  return Object.entries(schema.properties ?? {}).flatMap(([key, given]) => {
    const inner = { ...definitions[given.$ref?.split('/').at(-1) ?? ''], ...given }
    const full = `${path}${key}`
    if (!Object.hasOwn(values, key)) return []
    const value = values[key]
    const row = `| \`${full}\` | \`${JSON.stringify(value)}\` | ${inner.description?.replaceAll('|', '\\|')} |`
    if (inner.properties && !given.$ref) {
      return rowsOf(inner, value as Record<string, unknown>, `${full}.`, definitions)
    }
    return [row]
  })
}

if (process.argv[1] === import.meta.filename) writeFileSync(README, chartReadme())
