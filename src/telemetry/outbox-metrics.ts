import { Counter, Gauge, type Registry } from 'prom-client'

/** What Outrider's own table holds, and what it may. Seconds and bytes. */
export interface OutboxGauges {
  bytes: number
  /** Undefined: rows are kept without end. */
  maxBytes: number | undefined
  rows: number
  /** Undefined: no row is known to be published. */
  oldestSeconds: number | undefined
  /** By how long the oldest row has outlived `retention`; undefined: rows are kept without end. */
  lagSeconds: number | undefined
}

/** How large the outbox is, and what keeps it so. */
export function createOutboxMetrics(registry: Registry) {
  const registers = [registry]
  const gauge = (name: string, help: string) => new Gauge({ name: `outrider_outbox_${name}`, help, registers })
  const bytes = gauge('bytes', 'Bytes of outrider.outbox, with its indexes')
  const maxBytes = gauge('max_bytes', 'Bytes beyond which the oldest rows of the outbox are emptied early')
  const rows = gauge('rows', 'Rows of the outbox, as the statistics of Postgres have it')
  const oldest = gauge(
    'oldest_row_seconds',
    'Time since a checkpoint showed the oldest row of the outbox to be published',
  )
  const lag = gauge('retention_lag_seconds', 'Time by which the oldest row of the outbox has outlived its retention')
  const window = gauge(
    'retention_seconds',
    'Age up to which all rows of the outbox are kept: `retention`, or less where the table was too large',
  )
  const emptied = new Counter({
    name: 'outrider_outbox_buckets_emptied_total',
    help: 'Buckets of the outbox that were emptied',
    registers,
  })
  const blocked = new Gauge({
    name: 'outrider_outbox_retention_blocked',
    help: 'Why rows of the outbox stay that are due to be emptied, as 1',
    labelNames: ['reason'],
    registers,
  })
  const held = new Gauge({
    name: 'outrider_outbox_retention_held',
    help: 'Slots of the lineages that keep rows of the outbox from being emptied, as 1',
    labelNames: ['reason', 'slot'],
    registers,
  })
  const setOrRemove = (gauge: Gauge, value: number | undefined) => {
    if (value === undefined) gauge.remove()
    else gauge.set(value)
  }
  const forget = () => {
    for (const each of [bytes, maxBytes, rows, oldest, lag, window]) each.remove()
    blocked.reset()
    held.reset()
  }
  forget()
  return {
    set(outbox: OutboxGauges): void {
      bytes.set(outbox.bytes)
      setOrRemove(maxBytes, outbox.maxBytes)
      rows.set(outbox.rows)
      setOrRemove(oldest, outbox.oldestSeconds)
      setOrRemove(lag, outbox.lagSeconds)
    },
    setWindow: (seconds: number): void => window.set(seconds),
    bucketEmptied: (): void => emptied.inc(),
    /** Undefined: nothing holds it up. `slots`: of the lineages that do. */
    setBlocked(reason: string | undefined, slots: readonly string[] = []): void {
      blocked.reset()
      held.reset()
      if (reason === undefined) return
      blocked.set({ reason }, 1)
      for (const slot of slots) held.set({ reason, slot }, 1)
    },
    forget,
  }
}
