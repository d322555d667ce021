import type { Call, Delivery } from './delivery.js'
import { MAX_RUNNING_BYTES, MAX_SMALL_BYTES } from './limits.js'
import type { OrderingKeys } from './ordering-keys.js'
import { isSuspect } from './run-queues.js'

export interface BatchParts {
  /** Deliveries at most. */
  size: number
  /** The queue of the handler. */
  queue: readonly Delivery[]
  orderingKeys: OrderingKeys
  /** All of one stream or partition. */
  ordered: boolean
  /** Only small ones. */
  areSmall: boolean
  /** The bytes of the calls that run. */
  runningBytes: number
}

export const isSmall = ({ size }: Delivery): boolean => size <= MAX_SMALL_BYTES

/** The call of a batch handler that begins with this delivery: it takes along others of its queue, and those right behind them. */
export function batchOf(first: Delivery, parts: BatchParts): Call {
  const { size, queue, orderingKeys, ordered, areSmall, runningBytes } = parts
  const batch: [Delivery, ...Delivery[]] = [first]
  for (const delivery of queue) {
    if (batch.length >= size) break
    const fits = delivery.attempts === 0 && (!ordered || delivery.key === first.key)
    if (fits && delivery !== first && (!areSmall || isSmall(delivery))) batch.push(delivery)
  }
  for (const { orderingKey } of [...batch]) {
    for (const next of orderingKeys.behindFirst(orderingKey)) {
      // One that is not behind waits, or has not run and its outcome is still to come.
      const fits = next.state === 'behind' && next.route === first.route && next.attempts === 0 && !isSuspect(next)
      if (!fits || batch.length >= size) break
      batch.push(next)
    }
  }
  // Small ones together may have, with what runs, a little more than all that running calls may have.
  return fitting(batch, Math.max(areSmall ? MAX_SMALL_BYTES : 0, MAX_RUNNING_BYTES - runningBytes))
}

/** The first of them, and those behind it that these bytes hold with it. */
function fitting(call: Call, maxBytes: number): Call {
  const [first, ...others] = call
  let bytes = first.size
  const end = others.findIndex(({ size }) => {
    bytes += size
    return bytes > maxBytes
  })
  return end < 0 ? call : [first, ...others.slice(0, end)]
}
