import { randomUUID } from 'node:crypto'

let lastMillis = 0
let counter = 0

/**
 * A new UUID of version 7 (RFC 9562): sorts by the time it was made, and within this process strictly by the order of
 * the calls, also when the clock steps back. The 12 bits behind the milliseconds count (method 1), from a random start
 * in their lower half; when they run out, the next millisecond is taken ahead of the clock.
 */
export function newId(now: number = Date.now()): string {
  const random = randomUUID()
  if (now > lastMillis) {
    lastMillis = now
    counter = Number.parseInt(random.slice(0, 3), 16) >> 1
  } else if (++counter > 0xfff) {
    lastMillis++
    counter = 0
  }
  const millis = lastMillis.toString(16).padStart(12, '0')
  // Behind the fourth hyphen group's start a version 4 UUID is what a version 7 one is: the variant, then random bits.
  return `${millis.slice(0, 8)}-${millis.slice(8)}-7${counter.toString(16).padStart(3, '0')}${random.slice(18)}`
}
