import type { Redis as Client } from 'ioredis'
import { headKey } from '../../src/event/names.js'
import { type Position, positionOf, positionPrefix, ZERO_POSITION } from '../../src/event/position.js'

/** What is in Redis: one stream that two databases write to, and their heads. */
export const KEY = 'orders'
export const LINEAGES = ['north', 'south'] as const
export type Lineage = (typeof LINEAGES)[number]

/**
 * The position of a database's kth event. Three to a transaction; LSNs pass 2^32; and a promotion in between, whose
 * timeline begins again at lower LSNs.
 */
export const positionAt = (k: number): Position => {
  if (k < 0) return ZERO_POSITION
  const promoted = k >= 12
  const lsn = (promoted ? 0x9fn : 0xffff_fff3n) + 7n * BigInt(Math.floor(k / 3))
  return positionOf(positionPrefix(promoted ? 0xa : 0x9, lsn), k % 3)
}

export const eventId = (lineage: Lineage, k: number): string => `${lineage}-${k}`

/** One lineage as Redis has it. */
export interface Seen {
  /** Its events in the stream, in the stream's order. */
  events: number[]
  lastEntry: string
  head: { position: Position; event: string; entry: string; session: string } | undefined
}

export interface View {
  /** The stream's last generated id; undefined when the stream is gone. */
  generated: string | undefined
  seen: Record<Lineage, Seen>
}

const NOTHING: Seen = { events: [], lastEntry: '0-0', head: undefined }

type Snapshot = (Buffer | null)[]

export class PublishedState {
  /** After the last change; at first Redis is empty. */
  view: View = { generated: undefined, seen: { north: NOTHING, south: NOTHING } }
  readonly #snapshots: Snapshot[] = []

  constructor(readonly admin: Client) {}

  /** Changes something in Redis, and looks at what has become of it. */
  async change<T>(make: (admin: Client) => Promise<T>): Promise<T> {
    const result = await make(this.admin)
    this.view = await this.#look()
    return result
  }

  async #look(): Promise<View> {
    const replies = await this.admin
      .pipeline()
      .xrange(KEY, '-', '+')
      .call('XINFO', 'STREAM', KEY)
      .hgetall(KEYS[1])
      .hgetall(KEYS[2])
      .exec()
    const [entries, info, ...heads] = replies!.map(([, reply]) => reply) as [
      [string, string[]][],
      string[] | undefined,
      ...Record<string, string>[],
    ]
    const seen = LINEAGES.map((lineage, i): [Lineage, Seen] => {
      const own = entries.filter(([, fields]) => fields[1]!.startsWith(`${lineage}-`))
      return [
        lineage,
        {
          events: own.map(([, fields]) => Number(fields[1]!.slice(lineage.length + 1))),
          lastEntry: own.at(-1)?.[0] ?? '0-0',
          head: heads[i]?.position === undefined ? undefined : (heads[i] as unknown as NonNullable<Seen['head']>),
        },
      ]
    })
    return {
      generated: info?.[info.indexOf('last-generated-id') + 1],
      seen: Object.fromEntries(seen) as Record<Lineage, Seen>,
    }
  }

  async snapshot(): Promise<void> {
    this.#snapshots.push(await Promise.all(KEYS.map((key) => this.admin.dumpBuffer(key))))
  }

  /** Redis goes back: everything, or the stream without the heads. What came later has never been. */
  async rollback(n: number, what: 'everything' | 'stream'): Promise<void> {
    if (this.#snapshots.length === 0) return
    this.#snapshots.length = (n % this.#snapshots.length) + 1
    const snapshot = this.#snapshots.at(-1) as Snapshot
    const keys = what === 'everything' ? KEYS : KEYS.slice(0, 1)
    await this.change(async (admin) => {
      await admin.del(...keys)
      await Promise.all(keys.map((key, i) => snapshot[i] && admin.restore(key, 0, snapshot[i])))
    })
  }

  /** Whether stream and head of a lineage fit together. */
  isWhole(lineage: Lineage): boolean {
    const { events, head } = this.view.seen[lineage]
    return (head?.position ?? ZERO_POSITION) === positionAt(events.length - 1)
  }
}

const KEYS = [KEY, headKey(KEY, 'north'), headKey(KEY, 'south')] as const

/** Compares entry ids as the 64-bit numbers they are. */
export function isBefore(a: string, b: string): boolean {
  const [ms, seq] = a.split('-').map(BigInt) as [bigint, bigint]
  const [otherMs, otherSeq] = b.split('-').map(BigInt) as [bigint, bigint]
  return ms < otherMs || (ms === otherMs && seq < otherSeq)
}
