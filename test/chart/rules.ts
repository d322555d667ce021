import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { scratch } from '../../testkit/services/folder.js'
import type { Helm } from '../support/helm.js'
import { type Rendering, render } from './render.js'

export interface Rule {
  alert: string
  expr: string
  for: string
  labels: Record<string, string>
  annotations: Record<string, string>
}

interface Groups {
  groups: { name: string; rules: Rule[] }[]
}

/** What the chart cannot do without. */
export const REQUIRED = {
  image: { repository: 'registry.example.com/outrider' },
  postgres: { url: 'postgres://relay@db/shop' },
  redis: { url: 'redis://redis' },
}

/** The groups of rules that the chart makes with these values of metrics.prometheusRule. */
export async function renderRules(helm: Helm, prometheusRule: object = {}, rendering: Rendering = {}): Promise<Groups> {
  const values = { ...REQUIRED, ...rendering.values, metrics: { prometheusRule: { enabled: true, ...prometheusRule } } }
  const objects = await render(helm, { ...rendering, values })
  const found = objects.find(({ kind }) => kind === 'PrometheusRule')
  if (!found) throw new Error('Expected the chart to render a PrometheusRule, found none')
  return (found as unknown as { spec: Groups }).spec
}

export const rulesOf = ({ groups }: Groups): Rule[] => groups.flatMap(({ rules }) => rules)

/** A file for promtool. */
export function yamlFile(name: string, content: object): string {
  const file = join(scratch('promtool'), name)
  writeFileSync(file, stringify(content, { aliasDuplicateObjects: false }))
  return file
}
