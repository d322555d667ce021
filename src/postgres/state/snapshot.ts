/**
 * A `pg_snapshot`: which transactions had ended when it was taken. Text form `xmin:xmax:xip,…`.
 * https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT
 */
export class Snapshot {
  readonly xmax: bigint
  readonly #xmin: bigint
  readonly #running: ReadonlySet<bigint>

  constructor(text: string) {
    const [xmin, xmax, running] = text.split(':')
    if (!xmin || !xmax) throw new TypeError(`Expected a snapshot such as 10:20:10,14, found ${JSON.stringify(text)}.`)
    this.#xmin = BigInt(xmin)
    this.xmax = BigInt(xmax)
    this.#running = new Set(running ? running.split(',').map(BigInt) : [])
  }

  /** As `pg_visible_in_snapshot`: true also for a transaction that was rolled back, of which there are no rows. */
  sees(xid: bigint): boolean {
    if (xid < this.#xmin) return true
    return xid < this.xmax && !this.#running.has(xid)
  }
}

/** The full id of a transaction of which a row keeps 32 bits, in `xmin`: the newest that is below `next`. */
export function fullXid(xmin: bigint, next: bigint): bigint {
  if (xmin < 3n) return 0n
  const full = ((next >> 32n) << 32n) | xmin
  return full < next || full < 1n << 32n ? full : full - (1n << 32n)
}
