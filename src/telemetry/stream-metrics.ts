import { Counter, Gauge, type Registry } from 'prom-client'

/** A stream, or one of its partitions. */
export interface StreamGauges {
  entries: number
  /** Age of the first entry. */
  oldestSeconds: number
  /** By how long it has outlived the retention. */
  overdueSeconds: number
  /** The group that has not finished it. */
  heldBy: string | undefined
}

/** How large the streams are, and what keeps them so. The partitions of a stream are counted together. */
export function createStreamMetrics(registry: Registry, label: (key: string) => string) {
  const known = new Map<string, StreamGauges>()
  const registers = [registry]
  const trimmed = new Counter({
    name: 'outrider_entries_trimmed_total',
    help: 'Entries that were removed from a stream',
    labelNames: ['stream'],
    registers,
  })
  const cut = new Counter({
    name: 'outrider_entries_cut_total',
    help: 'Entries that maxLength removed from a stream and that the group had not finished',
    labelNames: ['stream', 'group'],
    registers,
  })
  const dead = new Counter({
    name: 'outrider_dead_letters_trimmed_total',
    help: 'Dead letters of a group that were removed for their age',
    labelNames: ['stream', 'group'],
    registers,
  })
  const gauge = (name: string, help: string, read: (stream: StreamGauges, before: number) => number) =>
    new Gauge({
      name: `outrider_${name}`,
      help,
      labelNames: ['stream'],
      registers,
      collect() {
        this.reset()
        const values = new Map<string, number>()
        for (const [key, stream] of known) values.set(label(key), read(stream, values.get(label(key)) ?? 0))
        for (const [stream, value] of values) this.set({ stream }, value)
      },
    })
  gauge('stream_entries', 'Entries of a stream', ({ entries }, before) => before + entries)
  gauge('stream_oldest_entry_seconds', 'Age of the first entry of a stream, by the clock of Redis', (stream, before) =>
    Math.max(before, stream.oldestSeconds),
  )
  new Gauge({
    name: 'outrider_trim_overdue_seconds',
    help: 'Time by which the first entry of a stream has outlived its retention; group: that has not finished it, empty: none',
    labelNames: ['stream', 'group'],
    registers,
    collect() {
      this.reset()
      const values = new Map<string, { stream: string; group: string; seconds: number }>()
      for (const [key, { overdueSeconds, heldBy = '' }] of known) {
        const stream = label(key)
        const name = `${stream} ${heldBy}`
        const seconds = Math.max(values.get(name)?.seconds ?? 0, overdueSeconds)
        values.set(name, { stream, group: heldBy, seconds })
      }
      for (const { stream, group, seconds } of values.values()) this.set({ stream, group }, seconds)
    },
  })
  return {
    trimmed: (key: string, entries: number): void => trimmed.inc({ stream: label(key) }, entries),
    cut: (key: string, group: string, entries: number): void => cut.inc({ stream: label(key), group }, entries),
    deadLettersTrimmed: (key: string, group: string, count: number): void =>
      dead.inc({ stream: label(key), group }, count),
    set: (key: string, stream: StreamGauges): void => void known.set(key, stream),
    forget: (): void => known.clear(),
  }
}
