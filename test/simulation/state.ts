import type { Head } from '../../src/event/head.js'
import { formatLsn, type Lsn } from '../../src/postgres/client/lsn.js'
import type { Bound, Checkpoint } from '../../src/postgres/state/checkpoints.js'
import { REPAIRED } from '../../src/postgres/state/gaps.js'
import type { SavedHead } from '../../src/postgres/state/heads.js'
import type { GapReason } from '../../src/postgres/state/incident-reasons.js'
import type { Decisions } from './decisions.js'
import type { Postgres, Row } from './postgres.js'

/** By how much the clocks of Postgres and Redis may differ, in ticks. */
export const CLOCK_SKEW = 5

export interface Gap {
  id: number
  reason: GapReason
  detail: object
  isRepaired: boolean
  streams: Map<string, GapStream>
}

export interface GapStream {
  snapshot: string | null
  since: Date | null
  head: string | null
}

export interface Repair {
  session: string
  everyStream: boolean
  snapshot: string
  until: Lsn
  unsettled: Set<string>
  attempts: number
  beganAt: number
}

/**
 * What the schema `outrider` holds, with counterparts of the statements in src/postgres/state. What decides in them is in decisions.ts.
 * Each method is one transaction.
 */
export class State {
  confirmed: Lsn
  publicationState: string | null
  readonly firstSnapshot: string
  readonly heads = new Map<string, SavedHead>()
  readonly sessions = new Map<string, number>()
  /** Gaps that are not closed. */
  gaps: Gap[] = []
  repair: Repair | undefined
  readonly #present = new Map<string, Set<string>>()
  readonly #checkpoints: (Checkpoint & { takenAt: number })[] = []
  readonly #postgres: Postgres
  readonly #decisions: Decisions
  readonly #now: () => number
  readonly #violated: (what: string) => void
  #ids = 0

  constructor(postgres: Postgres, decisions: Decisions, now: () => number, violated: (what: string) => void) {
    this.#postgres = postgres
    this.#decisions = decisions
    this.#now = now
    this.#violated = violated
    this.confirmed = postgres.lsn
    this.publicationState = postgres.publicationState
    this.firstSnapshot = postgres.takeSnapshot('first')
  }

  get openGaps(): Gap[] {
    return this.gaps.filter(({ isRepaired }) => !isRepaired)
  }

  /** sessions.ts */
  recordSession(session: string): void {
    if (!this.sessions.has(session)) this.sessions.set(session, this.sessions.size + 1)
  }

  /** The server restarts: an unlogged table is empty then. */
  restart(): void {
    this.#present.clear()
  }

  /** heads.ts */
  saveProgress(session: string, confirmed: Lsn, heads: ReadonlyMap<string, Head>): void {
    const number = this.sessions.get(session) ?? 0
    for (const [key, head] of heads) {
      const saved = this.heads.get(key)
      if (this.#decisions.savesHead(saved, head.position, number)) {
        this.#saveHead(key, { ...head, repairedBy: saved?.repairedBy ?? null })
      }
    }
    if (confirmed > this.confirmed) this.confirmed = confirmed
  }

  /** repairs.ts: false where another session leads, or has begun to repair, or a stream is in no gap any longer. */
  savePutBackHeads(
    holdsLock: boolean,
    session: string,
    heads: ReadonlyMap<string, Head>,
    gaps: readonly Gap[],
  ): boolean {
    if (!holdsLock || this.repair?.session !== session) return false
    if ([...heads.keys()].some((key) => !gaps.some(({ streams }) => streams.has(key)))) return false
    const repairedBy = this.sessions.get(session)!
    for (const [key, head] of heads) this.#saveHead(key, { ...head, repairedBy })
    for (const gap of gaps) gap.isRepaired = true
    this.#present.clear()
    return true
  }

  /** checkpoints.ts */
  saveCheckpoint(session: string, checkpoint: Checkpoint): void {
    const number = this.sessions.get(session)!
    const { snapshot } = this.#postgres.snapshotOf(checkpoint.snapshot)
    const keeps = this.#decisions.keepsCheckpoint({
      isKnownPublication: this.publicationState === this.#postgres.publicationState,
      isNewestSession: number === this.sessions.size,
      hasOpenGap: this.openGaps.length > 0,
      seesUnsettled: [...(this.repair?.unsettled ?? [])].some((xid) => snapshot.sees(BigInt(xid))),
    })
    if (!keeps || this.#checkpoints.some(({ lsn }) => lsn === checkpoint.lsn)) return
    this.#checkpoints.push({ ...checkpoint, takenAt: this.#now() })
    this.#checkpoints.sort((a, b) => (a.lsn < b.lsn ? -1 : 1))
  }

  /** checkpoints.ts, newestCheckpoints */
  newestCheckpoint(lsn: Lsn | null): Bound {
    const at = lsn === null ? -1 : this.#checkpoints.findLastIndex((checkpoint) => checkpoint.lsn <= lsn)
    const newest = this.#checkpoints[at]
    const previous = this.#checkpoints[at - 1]
    const since = newest && previous ? new Date(previous.takenAt - CLOCK_SKEW) : null
    return { snapshot: newest?.snapshot ?? null, since }
  }

  /** incidents.ts, openIncident: one that is open is found again; one that settles is open again. */
  openGap(reason: GapReason, detail: object): Gap {
    const known = this.gaps.find((gap) => gap.reason === reason)
    if (known?.isRepaired) this.#reopen([known])
    if (known) return known
    const gap = { id: ++this.#ids, reason, detail, isRepaired: false, streams: new Map() }
    this.gaps.push(gap)
    return gap
  }

  /** gaps.ts: false where another session leads. */
  recordLostStreams(holdsLock: boolean, streams: ReadonlyMap<string, GapStream>): boolean {
    if (!this.#decisions.mayRecordLoss(holdsLock)) return false
    const gap = this.openGap('stream_behind', {})
    for (const [key, lost] of streams) {
      const known = gap.streams.get(key)
      if (known) known.snapshot = this.#decisions.boundAfterLoss(known, lost)
      else gap.streams.set(key, { ...lost })
    }
    return true
  }

  /** missing-rows.ts, PresentIds */
  addPresent(session: string, ids: readonly string[]): void {
    const known = this.#present.get(session) ?? new Set()
    for (const id of ids) known.add(id)
    this.#present.set(session, known)
  }

  clearPresent(session: string): void {
    if (this.repair?.session === session) this.#present.clear()
  }

  /** gaps.ts: gives since when entries of other rows may be there; undefined where another session has begun to repair. */
  boundStream(session: string, gap: Gap, key: string, bound: Bound): Date | null | undefined {
    if (!this.#decisions.mayBound(session, this.repair?.session)) return undefined
    const { snapshot, since, head } = this.#decisions.boundOnRecord(gap.streams.get(key), bound)
    gap.streams.set(key, { snapshot, since, head })
    return snapshot === null ? null : since
  }

  /** gaps.ts */
  removeFoundAgain(gap: Gap, keys: readonly string[]): void {
    if (this.repair?.attempts) return
    for (const key of keys) gap.streams.delete(key)
    if (gap.streams.size === 0) this.gaps = this.gaps.filter((other) => other !== gap)
  }

  /** repairs.ts: nothing where another session leads. */
  reopenRepaired(holdsLock: boolean): void {
    if (!this.#decisions.mayReopen(holdsLock)) return
    this.#reopen(this.gaps.filter(({ isRepaired }) => isRepaired))
  }

  /** incidents.ts, boundByRepair */
  #reopen(gaps: readonly Gap[]): void {
    for (const gap of gaps) {
      gap.isRepaired = false
      const { repair } = this
      if (!repair) continue
      const since = new Date(repair.beganAt - CLOCK_SKEW)
      for (const stream of gap.streams.values()) {
        Object.assign(stream, { snapshot: repair.snapshot, since, head: REPAIRED })
      }
    }
  }

  /** repairs.ts, the last statement of beginRepair; undefined where another session leads, or a gap is not open any longer. */
  beginRepair(
    holdsLock: boolean,
    gaps: readonly Gap[],
    repair: Omit<Repair, 'attempts' | 'beganAt'>,
  ): Repair | undefined {
    if (!holdsLock || gaps.some((gap) => gap.isRepaired || !this.gaps.includes(gap))) return undefined
    this.repair = { ...repair, attempts: this.repair?.attempts ?? 0, beganAt: this.#now() }
    return this.repair
  }

  /** repairs.ts */
  closeRepaired(session: string): void {
    if (this.repair?.session !== session) return
    this.gaps = this.gaps.filter(({ isRepaired }) => !isRepaired)
    if (this.gaps.length === 0) this.repair = undefined
  }

  /** repairs.ts */
  loadSettling(): Repair | undefined {
    if (this.gaps.length === 0) this.repair = undefined
    return this.repair
  }

  /** slot-recovery.ts; false where the publication was altered meanwhile, or the lock was lost. */
  saveRecovered(holdsLock: boolean, confirmed: Lsn, state: string, wasIncomplete: boolean): boolean {
    if (!holdsLock || this.#postgres.publicationState !== state) return false
    this.confirmed = confirmed
    if (wasIncomplete) this.publicationState = state
    return true
  }

  /** What a gap of slot or publication records. */
  sourceDetail(more: object = {}): object {
    return { confirmed: formatLsn(this.confirmed), ...more }
  }

  /** missing-rows.ts */
  missingRows({ snapshot, session }: Repair): Row[] {
    const postgres = this.#postgres
    const first = postgres.snapshotOf(this.firstSnapshot)
    const present = this.#present.get(session) ?? new Set<string>()
    const bounds = new Map<string, (string | null)[]>()
    for (const gap of this.openGaps) {
      for (const [key, bound] of gap.streams) {
        const [stream] = key.split(':') as [string]
        bounds.set(stream, [...(bounds.get(stream) ?? []), bound.snapshot])
      }
    }
    const lowest = new Map(
      [...bounds].map(([stream, all]) => {
        const taken = all.map((text) => (text === null ? null : postgres.snapshotOf(text)))
        return [stream, this.#decisions.lowestBound(taken) ?? first]
      }),
    )
    const seen = postgres.snapshotOf(snapshot).snapshot
    return postgres.table
      .filter((row) => {
        const bound = lowest.get(row.stream)
        return bound && this.#decisions.isMissing(row, seen, bound.snapshot, present)
      })
      .sort((a, b) => this.#decisions.comesBefore(a, b, postgres.tracksCommits))
  }

  /** settling.ts: rows of these transactions. */
  rowsOf(xids: ReadonlySet<string>): Row[] {
    return this.#postgres.table.filter(({ xid }) => xids.has(String(xid)))
  }

  #saveHead(key: string, head: SavedHead): void {
    const before = this.heads.get(key)
    const hasRisen =
      !before ||
      (head.repairedBy ?? 0) > (before.repairedBy ?? 0) ||
      (head.repairedBy === before.repairedBy && head.position >= before.position)
    if (!hasRisen) this.#violated(`saved head of ${key} went back from ${before.position} to ${head.position}`)
    this.heads.set(key, head)
  }
}
