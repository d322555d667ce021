import type { Registry } from 'prom-client'

/** A metric that is really there: its labels, and the values of them that were seen. */
export interface Emitted {
  labels: Map<string, Set<string>>
}

const SUFFIXES = { histogram: ['_bucket', '_sum', '_count'], summary: ['_sum', '_count', ''] } as const

/** By the name of their series, as Prometheus would find them in what /metrics says. */
export function emittedIn(exposition: string): Map<string, Emitted> {
  const emitted = new Map<string, Emitted>()
  const of = (name: string) => emitted.get(name) ?? emitted.set(name, { labels: new Map() }).get(name)!
  for (const line of exposition.split('\n')) {
    const [, family, type] = /^# TYPE (\S+) (\S+)/.exec(line) ?? []
    if (family) for (const suffix of SUFFIXES[type as 'histogram'] ?? ['']) of(family + suffix)
    const [, name, labels = ''] = /^([a-z]\w*)(?:\{(.*)\})? \S+$/.exec(line) ?? []
    if (!name) continue
    for (const [, label = '', value = ''] of labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      const known = of(name).labels
      known.set(label, (known.get(label) ?? new Set()).add(value))
    }
  }
  return emitted
}

export const emittedBy = async (registry: Registry): Promise<Map<string, Emitted>> =>
  emittedIn(await registry.metrics())
