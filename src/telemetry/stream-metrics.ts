import { Counter, Gauge, type Registry } from 'prom-client'

/** A stream, or one of its partitions. */
export interface StreamGauges {
  entries: number
  /** Undefined: not known. */
  bytes: number | undefined
  /** Age of the first entry. */
  oldestSeconds: number
  /** By how long it has outlived the retention. */
  overdueSeconds: number
  /** The group that has not finished it. */
  heldBy: string | undefined
  deadLetters: readonly DeadLetterGauges[]
  /** Of the server that has the stream; undefined: not known. */
  memory: { used: number; max: number | undefined } | undefined
}

/** The dead letters of a group. */
export interface DeadLetterGauges {
  group: string
  count: number
  /** Age of the oldest; 0 without any. */
  oldestSeconds: number
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
  const gauge = (name: string, help: string, read: (stream: StreamGauges, before: number) => number | undefined) =>
    new Gauge({
      name: `outrider_${name}`,
      help,
      labelNames: ['stream'],
      registers,
      collect() {
        this.reset()
        const values = new Map<string, number>()
        for (const [key, stream] of known) {
          const value = read(stream, values.get(label(key)) ?? 0)
          if (value !== undefined) values.set(label(key), value)
        }
        for (const [stream, value] of values) this.set({ stream }, value)
      },
    })
  gauge('stream_entries', 'Entries of a stream', ({ entries }, before) => before + entries)
  gauge(
    'stream_bytes',
    'Memory of a stream and its groups in Redis, estimated from some of its entries',
    (stream, before) => (stream.bytes === undefined ? undefined : before + stream.bytes),
  )
  gauge('stream_oldest_entry_seconds', 'Age of the first entry of a stream, by the clock of Redis', (stream, before) =>
    Math.max(before, stream.oldestSeconds),
  )
  const perGroup = (
    name: string,
    help: string,
    add: (values: GroupValues, key: string, stream: StreamGauges) => void,
  ) =>
    new Gauge({
      name: `outrider_${name}`,
      help,
      labelNames: ['stream', 'group'],
      registers,
      collect() {
        this.reset()
        const values = new GroupValues()
        for (const [key, stream] of known) add(values, label(key), stream)
        for (const { stream, group, value } of values.all()) this.set({ stream, group }, value)
      },
    })
  perGroup(
    'trim_overdue_seconds',
    'Time by which the first entry of a stream has outlived its retention; group: that has not finished it, empty: none',
    (values, stream, { overdueSeconds, heldBy = '' }) => values.raise(stream, heldBy, overdueSeconds),
  )
  perGroup('dead_letters', 'Dead letters of a group', (values, stream, { deadLetters }) => {
    for (const { group, count } of deadLetters) values.add(stream, group, count)
  })
  perGroup(
    'dead_letters_oldest_seconds',
    'Time since the oldest dead letter of a group, by the clock of Redis; 0 without any',
    (values, stream, { deadLetters }) => {
      for (const { group, oldestSeconds } of deadLetters) values.raise(stream, group, oldestSeconds)
    },
  )
  const ofServer = (name: string, help: string, read: (memory: Memory) => number | undefined) =>
    new Gauge({
      name: `outrider_redis_${name}`,
      help,
      registers,
      collect() {
        const fullest = fullestOf(known.values())
        const value = fullest && read(fullest)
        if (value === undefined) this.remove()
        else this.set(value)
      },
    })
  ofServer('used_memory_bytes', 'used_memory of Redis; in a cluster of the fullest server', ({ used }) => used)
  ofServer('max_memory_bytes', 'maxmemory of the same server', ({ max }) => max)
  return {
    trimmed: (key: string, entries: number): void => trimmed.inc({ stream: label(key) }, entries),
    cut: (key: string, group: string, entries: number): void => cut.inc({ stream: label(key), group }, entries),
    deadLettersTrimmed: (key: string, group: string, count: number): void =>
      dead.inc({ stream: label(key), group }, count),
    set: (key: string, stream: StreamGauges): void => void known.set(key, stream),
    /** The stream is gone. */
    remove: (key: string): void => void known.delete(key),
    forget: (): void => known.clear(),
  }
}

/** By stream and group; partitions of a stream have one name. */
class GroupValues {
  readonly #values = new Map<string, { stream: string; group: string; value: number }>()

  add(stream: string, group: string, value: number): void {
    this.#of(stream, group).value += value
  }

  raise(stream: string, group: string, value: number): void {
    const known = this.#of(stream, group)
    known.value = Math.max(known.value, value)
  }

  all(): Iterable<{ stream: string; group: string; value: number }> {
    return this.#values.values()
  }

  #of(stream: string, group: string): { value: number } {
    const name = `${stream} ${group}`
    const known = this.#values.get(name) ?? { stream, group, value: 0 }
    this.#values.set(name, known)
    return known
  }
}

type Memory = NonNullable<StreamGauges['memory']>

/** Of the servers that have streams, the one that has used most of what it may; without limits, most. */
function fullestOf(streams: Iterable<StreamGauges>): Memory | undefined {
  let fullest: Memory | undefined
  for (const { memory } of streams) if (memory && (!fullest || isFuller(memory, fullest))) fullest = memory
  return fullest
}

function isFuller(one: Memory, other: Memory): boolean {
  const [share, otherShare] = [one.used / (one.max ?? Infinity), other.used / (other.max ?? Infinity)]
  return share === otherShare ? one.used > other.used : share > otherShare
}
