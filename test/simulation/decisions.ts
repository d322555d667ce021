import { isPlace, type Position, placePrefix, positionOf, ZERO_POSITION } from '../../src/event/position.js'
import type { Lsn } from '../../src/postgres/client/lsn.js'
import type { Bound } from '../../src/postgres/state/checkpoints.js'
import { REPAIRED } from '../../src/postgres/state/gaps.js'
import type { SavedHead } from '../../src/postgres/state/heads.js'
import type { Snapshot } from '../../src/postgres/state/snapshot.js'
import type { TransactionTracker } from '../../src/relay/confirm/transaction-tracker.js'
import { gapOfSlot } from '../../src/relay/identity.js'
import { sideOf } from '../../src/relay/repair/settled-rows.js'
import { awaitedLsn, dueOf, isSettled } from '../../src/relay/repair/settlement.js'
import { continuesFrom, isUnrecorded, mustReplaceSlot } from '../../src/relay/repair/slot-recovery.js'
import {
  boundAtSource,
  confirmedBefore,
  earlierOf,
  firstFreeIndex,
  foundStream,
  holds,
} from '../../src/relay/repair/stream-bounds.js'
import { isFoundAgain, mayBeFoundAgain } from '../../src/relay/sink/found-again.js'
import { isBeforeRepair, isCutOff } from '../../src/relay/sink/head-ownership.js'
import { areUnmoved } from '../../src/relay/sink/head-survey.js'
import { chainStart } from '../../src/relay/sink/server-wal.js'
import { endOfLost, isSoundAlone, mayHaveSoundEnd } from '../../src/relay/sink/sound-end.js'
import { classifyOpening } from '../../src/relay/sink/stream-opener.js'
import type { Row } from './postgres.js'
import type { KnownEnd } from './redis.js'
import type { GapStream, Repair } from './state.js'

/** A snapshot with what orders two of them. */
export interface TakenSnapshot {
  text: string
  xmin: bigint
  xmax: bigint
  running: number
  snapshot: Snapshot
}

export type BegunRepair = Pick<Repair, 'snapshot' | 'until' | 'unsettled'>

/**
 * What decides in a repair. First the functions of the product. Then counterparts of decisions that the product leaves to a statement
 * of SQL, which is named: they are written a second time, so a fault of the statement alone is not found here.
 */
export const PRODUCT = {
  areUnmoved,
  awaitedLsn,
  boundAtSource,
  chainStart,
  classifyOpening,
  confirmedBefore,
  continuesFrom,
  dueOf,
  earlierOf,
  endOfLost,
  firstFreeIndex,
  foundStream,
  gapOfSlot,
  holds,
  isBeforeRepair,
  isCutOff,
  isFoundAgain,
  isPlace,
  isSettled,
  isSoundAlone,
  isUnrecorded,
  mayBeFoundAgain,
  mayHaveSoundEnd,
  mustReplaceSlot,
  placePrefix,
  positionOf,
  sideOf,

  /** ConfirmLoop: up to where may be confirmed. `read`: the end of the last commit that was read. */
  confirmable: (tracker: TransactionTracker, _read: Lsn): Lsn => tracker.confirmable,

  /** StreamOpener: may the head of a stream that lacks its events be removed? `saved`: its position as it is saved by then. */
  isUnsaved: (saved: Position | undefined): boolean => (saved ?? ZERO_POSITION) === ZERO_POSITION,

  /** SettledRows.drops: of which streams are rows dropped that the table gave? undefined: of all. */
  isConcerned: (key: string, streams: ReadonlySet<string> | undefined): boolean =>
    streams === undefined || streams.has(key),

  /**
   * AwaitedRows: is the row of an awaited transaction missing? `isSaved`: its stream has a saved head. `hasBegun`: its Begin came in this
   * session.
   */
  isAbsent: ({ isInStream, isSaved }: { isInStream: boolean; isSaved: boolean; hasBegun: boolean }): boolean =>
    !isInStream || !isSaved,

  /** AffectedStreams.readIds: which of the entries that may be read are read? */
  idsRead: <T>(entries: readonly T[]): readonly T[] => entries,

  /** postgres/state/repairs.ts, beginRepair: those that the snapshot names, and from its upper bound on. */
  unsettledOf({ snapshot, xmin }: TakenSnapshot, next: bigint): bigint[] {
    const open: bigint[] = []
    for (let xid = xmin; xid < next; xid++) if (!snapshot.sees(xid)) open.push(xid)
    return open
  },

  /** postgres/state/repairs.ts, beginRepair: what the repair goes by. `known`: of the last repair whose gaps are not closed. */
  begins: (begun: BegunRepair, _known: BegunRepair | undefined): BegunRepair => begun,

  /** prepare-repair.lua: entry and count that a head names which a repair has moved. */
  preparedEnd: (stream: KnownEnd): KnownEnd => stream,

  /** postgres/state/gaps.ts, insertStreams: the bound of a stream that was lost once more. */
  boundAfterLoss: (known: GapStream, lost: GapStream): string | null =>
    known.head === lost.head && lost.snapshot !== null ? known.snapshot : null,

  /** postgres/state/gaps.ts, recordLostStreams. */
  mayRecordLoss: (holdsLock: boolean): boolean => holdsLock,

  /** postgres/state/repairs.ts, reopenRepaired. */
  mayReopen: (holdsLock: boolean): boolean => holdsLock,

  /** postgres/state/gaps.ts, boundStreams: `repairing`: the session that began to repair last. */
  mayBound: (session: string, repairing: string | undefined): boolean => session === repairing,

  /** postgres/state/gaps.ts, boundStreams: what is on record after a stream was looked at. */
  boundOnRecord(known: GapStream | undefined, { snapshot, since }: Bound): GapStream {
    if (known === undefined) return { snapshot, since, head: null }
    const isRepaired = known.head === REPAIRED
    const next = isRepaired ? known.snapshot : snapshot
    return {
      snapshot: known.snapshot === null || snapshot === null ? null : next,
      since: isRepaired ? known.since : since,
      head: known.head,
    }
  },

  /** postgres/state/checkpoints.ts, saveCheckpoint. */
  keepsCheckpoint: (found: {
    isKnownPublication: boolean
    isNewestSession: boolean
    hasOpenGap: boolean
    seesUnsettled: boolean
  }): boolean => found.isKnownPublication && found.isNewestSession && !found.hasOpenGap && !found.seesUnsettled,

  /** postgres/state/heads.ts, saveHeads: `session`: the number of the session that saves. */
  savesHead: (saved: SavedHead | undefined, position: Position, session: number): boolean =>
    saved === undefined || (position > saved.position && (saved.repairedBy === null || saved.repairedBy <= session)),

  /** relay/repair/missing-rows.ts: the bound of all partitions of a stream; null: none. */
  lowestBound(bounds: readonly (TakenSnapshot | null)[]): TakenSnapshot | null {
    let lowest = bounds[0] ?? null
    for (const bound of bounds) {
      if (bound === null || lowest === null) return null
      const isLower =
        bound.xmax !== lowest.xmax
          ? bound.xmax < lowest.xmax
          : bound.xmin !== lowest.xmin
            ? bound.xmin < lowest.xmin
            : bound.running > lowest.running
      if (isLower) lowest = bound
    }
    return lowest
  },

  /** relay/repair/missing-rows.ts. `bound`: of the stream, or the snapshot from before the slot was created. */
  isMissing: (row: Row, snapshot: Snapshot, bound: Snapshot, present: ReadonlySet<string>): boolean =>
    snapshot.sees(row.xid) && !bound.sees(row.xid) && !present.has(row.id),

  /** relay/repair/missing-rows.ts, `order by`. `tracked`: `track_commit_timestamp` is on. */
  comesBefore: (one: Row, other: Row, tracked: boolean): number =>
    (tracked ? one.transaction.committed - other.transaction.committed : 0) || one.seq - other.seq,
}

export type Decisions = typeof PRODUCT
