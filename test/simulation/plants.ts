import { type Position, parsePosition, positionPrefix, ZERO_POSITION } from '../../src/event/position.js'
import type { AppendReply } from '../../src/redis/streams/append.js'
import { type Decisions, PRODUCT } from './decisions.js'

/** A bug that the simulation must find: a decision of a repair is another one. */
export interface Plant {
  name: string
  /** Which violations may show it. */
  shows: RegExp
  decisions: Partial<Decisions>
  /** The seed to begin with, where it is found in one run of many thousands. */
  from?: number
}

const LOST = /^lost/
const lsnOf = (position: Position) => (position === ZERO_POSITION ? null : parsePosition(position).lsn)

/**
 * Faults of the design that were found in attacks on it, or by this simulation. Not among them:
 * there is no trimming, so nothing decides about it;
 * a lower bound from a head that a repair has written: too many things must meet, so it is not found in 60,000 runs; head-ownership.test.ts
 * has that decision;
 * a repair that was cut off counts as whole: what each attempt records of the bounds keeps that from losing anything here.
 */
export const PLANTS: readonly Plant[] = [
  {
    name: 'bound-kept-at-second-loss',
    shows: LOST,
    decisions: { boundAfterLoss: (known) => known.snapshot, holds: () => true },
  },
  {
    name: 'bound-of-deleted-stream',
    shows: LOST,
    from: 4762,
    decisions: { holds: ({ head }, found) => PRODUCT.holds({ head }, found && { ...found, hasSoundEnd: true }) },
  },
  {
    name: 'bound-raised-after-cut-off',
    shows: LOST,
    from: 2618,
    decisions: {
      boundOnRecord: (known, bound) =>
        known?.head === null ? { ...known, ...bound } : PRODUCT.boundOnRecord(known, bound),
    },
  },
  { name: 'bound-of-frozen-repair', shows: /^doubled/, from: 1_030_045, decisions: { mayBound: () => true } },
  {
    name: 'gone-stream-ends-at-head',
    shows: LOST,
    decisions: {
      endOfLost: ({ head }: AppendReply) => lsnOf(head.position),
      isSoundAlone: () => true,
      holds: () => true,
    },
  },
  {
    name: 'highest-bound-of-partitions',
    shows: LOST,
    decisions: {
      lowestBound: (bounds) =>
        bounds.reduce((one, other) => (one && other && one.xmax > other.xmax ? one : other), null),
    },
  },
  {
    name: 'settled-by-begin',
    shows: LOST,
    decisions: { isAbsent: (row) => PRODUCT.isAbsent(row) && !row.hasBegun },
  },
  {
    name: 'settled-without-saved-head',
    shows: /^no saved head/,
    from: 15_700,
    decisions: { isAbsent: ({ isInStream }) => !isInStream },
  },
  { name: 'late-save-ignored', shows: LOST, from: 21_235_058, decisions: { isUnsaved: () => true } },
  { name: 'snapshot-kept-at-second-loss', shows: LOST, decisions: { begins: (begun, known) => known ?? begun } },
  {
    name: 'prepared-head-without-entry',
    shows: LOST,
    from: 881,
    decisions: { preparedEnd: () => ({ last: 0, added: 0 }) },
  },
  { name: 'not-settled', shows: LOST, decisions: { unsettledOf: () => [] } },
  {
    name: 'checkpoint-in-hole',
    shows: LOST,
    from: 771,
    decisions: { keepsCheckpoint: (found) => PRODUCT.keepsCheckpoint({ ...found, isKnownPublication: true }) },
  },
  {
    name: 'slot-advanced-past-unread-commits',
    shows: LOST,
    decisions: { continuesFrom: (...from) => PRODUCT.continuesFrom(...from) + 64n },
  },
  { name: 'confirmed-before-appended', shows: LOST, decisions: { confirmable: (_tracker, read) => read } },
  {
    name: 'place-not-rounded',
    shows: /./,
    decisions: { placePrefix: (timeline, lsn) => positionPrefix(timeline, lsn - 1n) },
  },
  { name: 'order-by-id', shows: /^out of order/, decisions: { comesBefore: (one, other) => other.seq - one.seq } },
  { name: 'loss-recorded-without-lock', shows: /^doubled/, from: 20_872_877, decisions: { mayRecordLoss: () => true } },
  { name: 'newest-ids-only', shows: /^doubled/, decisions: { idsRead: (entries) => entries.slice(-3) } },
  { name: 'repaired-by-ignored', shows: LOST, from: 1683, decisions: { isBeforeRepair: () => false } },
  { name: 'every-stream-filtered', shows: LOST, decisions: { isConcerned: () => true } },
  { name: 'nothing-filtered', shows: /^doubled/, decisions: { isConcerned: () => false } },
]

export const planted = (name: string): Decisions | undefined => {
  const plant = PLANTS.find((each) => each.name === name)
  return plant && { ...PRODUCT, ...plant.decisions }
}
