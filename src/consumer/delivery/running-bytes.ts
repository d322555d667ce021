import { isSmall } from './batch.js'
import type { Call, Delivery } from './delivery.js'
import { MAX_RUNNING_BYTES, MAX_RUNNING_SMALL_BYTES, MAX_SMALL_BYTES } from './limits.js'

/** The bytes of the payloads of running calls. Small calls have a budget of their own, so that they run next to large ones. */
export class RunningBytes {
  #large = 0
  #small = 0

  /** Of those that are not small. */
  get large(): number {
    return this.#large
  }

  /** Whether a call that begins with this delivery may have its bytes next to those that run. */
  fits(delivery: Delivery): boolean {
    if (isSmall(delivery)) return this.#small + delivery.size <= MAX_RUNNING_SMALL_BYTES
    return this.#large + delivery.size <= MAX_RUNNING_BYTES
  }

  begin(call: Call): void {
    this.#count(call, 1)
  }

  end(call: Call): void {
    this.#count(call, -1)
  }

  #count(call: Call, sign: 1 | -1): void {
    let bytes = 0
    for (const { size } of call) bytes += size
    if (bytes <= MAX_SMALL_BYTES) this.#small += sign * bytes
    else this.#large += sign * bytes
  }
}
