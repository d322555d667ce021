import type { Redis as Client } from 'ioredis'
import type { Consumer } from '../../src/consumer/consumer.js'
import { type EntryInput, entryOf } from '../../testkit/entry.js'
import { GROUP } from './happened.js'

/** An entry that was delivered and is not acknowledged. */
export interface Pending {
  entry: string
  consumer: string
  /** Milliseconds. */
  idle: number
  deliveries: number
}

export async function pendingOf(redis: Client, key: string, group = GROUP): Promise<Pending[]> {
  const rows = (await redis.xpending(key, group, '-', '+', 10_000)) as [string, string, number, number][]
  return rows.map(([entry, consumer, idle, deliveries]) => ({ entry, consumer, idle, deliveries }))
}

/**
 * Appends entries, and delivers all that is new to a worker that never says a word about it, before any other can have it: as
 * if it was killed. Returns the ids of the entries that it has.
 */
export async function leaveBehind(
  redis: Client,
  key: string,
  datas: readonly unknown[],
  { name = 'ghost', ...input }: EntryInput & { name?: string } = {},
): Promise<string[]> {
  await redis.xgroup('CREATE', key, GROUP, '0', 'MKSTREAM').catch((error: Error) => {
    if (!error.message.startsWith('BUSYGROUP')) throw error
  })
  const transaction = redis.multi()
  for (const data of datas) transaction.xadd(key, '*', ...entryOf(data, input))
  transaction.xreadgroup('GROUP', GROUP, name, 'COUNT', 10_000, 'STREAMS', key, '>')
  const [error, reply] = (await transaction.exec())?.at(-1) ?? []
  if (error) throw error
  const [[, entries]] = reply as [[string, [string, string[]][]]]
  return entries.map(([id]) => id)
}

/** The sum of a metric over all label values that agree with these. */
export async function metricOf(
  consumer: Pick<Consumer<unknown>, 'registry'>,
  name: string,
  labels: Record<string, string> = {},
): Promise<number> {
  const found = await consumer.registry.getSingleMetric(`outrider_consumer_${name}`)?.get()
  return (found?.values ?? [])
    .filter((value) => Object.entries(labels).every(([key, wanted]) => value.labels[key] === wanted))
    .reduce((sum, { value }) => sum + value, 0)
}

/** Holds handlers back until it is opened, or until their signal: a test that fails must not hang. */
export class Gate {
  readonly #opened: Promise<void>
  open: () => void = () => {}

  constructor() {
    this.#opened = new Promise((resolve) => {
      this.open = resolve
    })
  }

  async passed(signal?: AbortSignal): Promise<void> {
    if (!signal) return this.#opened
    const aborted = new Promise<never>((_, reject) => {
      if (signal.aborted) reject(signal.reason as Error)
      signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })
    })
    await Promise.race([this.#opened, aborted])
  }
}
