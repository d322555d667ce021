import { CONSUMERS } from './alert-consumers.js'
import {
  AFTER,
  active,
  always,
  BEFORE,
  GIB,
  gone,
  LATENCY,
  newcomer,
  ONSET,
  standby,
  turning,
  UNBOUNDED,
} from './alert-health.js'

/** What each alert is for: from `ONSET` on something is wrong, and at `END` it fires. */
export interface AlertCase {
  alert: string
  what: string
  /** What differs from health; undefined: the series is not there. */
  wrong: Record<string, string | undefined>
  /** Others that rightly fire with it. */
  also?: string[]
}

export const CASES: AlertCase[] = [
  {
    alert: 'OutriderRelayDown',
    what: 'no relay can be scraped',
    wrong: { ...gone('shop-outrider'), [active('up')]: turning(1, 0), [standby('up')]: turning(1, 0) },
    also: ['OutriderNoActiveRelay'],
  },
  {
    alert: 'OutriderNoActiveRelay',
    what: 'both stand by',
    wrong: {
      [active('outrider_role', 'role="active"')]: turning(1, 0),
      [active('outrider_role', 'role="standby"')]: turning(0, 1),
    },
  },
  {
    alert: 'OutriderSeveralActiveRelays',
    what: 'two are active',
    wrong: {
      [standby('outrider_role', 'role="standby"')]: turning(1, 0),
      [standby('outrider_role', 'role="active"')]: turning('_', 1),
      [standby('outrider_slot_retained_wal_bytes')]: turning('_', 1),
    },
  },
  { alert: 'OutriderStandbyMissing', what: 'the standby is gone', wrong: gone('pod="b"') },
  {
    alert: 'OutriderStandbyMissing',
    what: 'a rollout is stuck: two old ones are ready, the new one waits for setup',
    wrong: { [newcomer('starting')]: turning('_', 1) },
  },
  {
    alert: 'OutriderStandbyMissing',
    what: 'the standby halts while the other one is active',
    wrong: {
      [standby('outrider_role', 'role="standby"')]: turning(1, 0),
      [standby('outrider_role', 'role="halted"')]: turning('_', 1),
    },
  },
  {
    alert: 'OutriderNoActiveRelay',
    what: 'all wait for setup',
    wrong: {
      [active('outrider_role', 'role="active"')]: turning(1, 0),
      [active('outrider_role', 'role="starting"')]: turning(0, 1),
      [standby('outrider_role', 'role="standby"')]: turning(1, 0),
      [standby('outrider_role', 'role="starting"')]: turning(0, 1),
    },
  },
  {
    alert: 'OutriderHalted',
    what: 'both are halted, and take turns in looking again',
    wrong: {
      [active('outrider_role', 'role="active"')]: turning(1, 0),
      [active('outrider_role', 'role="halted"')]: `_x${BEFORE} ${'1 0 '.repeat(AFTER / 2)}`,
    },
    also: ['OutriderNoActiveRelay', 'OutriderStandbyMissing'],
  },
  {
    alert: 'OutriderHalted',
    what: 'each time that it looks again it is active for a moment',
    wrong: {
      [active('outrider_role', 'role="active"')]: `1x${BEFORE - 1} ${'0 1 '.repeat(AFTER / 2)}`,
      [active('outrider_role', 'role="halted"')]: `_x${BEFORE} ${'1 0 '.repeat(AFTER / 2)}`,
    },
  },
  {
    alert: 'OutriderIncidentOpen',
    what: 'a gap was found',
    wrong: { [active('outrider_open_incidents', 'kind="gap"')]: turning(0, 1) },
  },
  {
    alert: 'OutriderIncidentOpen',
    what: 'the database is a copy',
    wrong: { [active('outrider_open_incidents', 'kind="foreign"')]: turning(0, 1) },
  },
  {
    alert: 'OutriderRepairSlow',
    what: 'a gap is repaired for most of an hour',
    wrong: {
      [active('outrider_open_incidents', 'kind="gap"')]: turning(0, 1),
      [active('outrider_state', 'state="repairing"')]: turning('_', 1),
    },
  },
  {
    alert: 'OutriderIncidentOpen',
    what: 'the database is a copy, found during a repair',
    wrong: {
      [active('outrider_open_incidents', 'kind="foreign"')]: turning(0, 1),
      [active('outrider_state', 'state="repairing"')]: turning(0, 1),
    },
    also: ['OutriderRepairSlow'],
  },
  {
    alert: 'OutriderEventsRejected',
    what: 'a row could not be published',
    wrong: { [active('outrider_open_incidents', 'kind="rejected"')]: turning(0, 1) },
  },
  {
    alert: 'OutriderTrimHeld',
    what: 'a group has not finished what should have gone',
    wrong: { [active('outrider_trim_overdue_seconds', 'stream="orders",group="billing"')]: turning(0, 4_000) },
  },
  {
    alert: 'OutriderEntriesCut',
    what: 'the maximum length took what a group had not finished, for the first time',
    wrong: {
      [active('outrider_entries_cut_total', 'stream="orders",group="billing"')]: `_x${BEFORE + AFTER - 20} 5x20`,
    },
  },
  {
    alert: 'OutriderRedisMemoryHigh',
    what: 'Redis has used nine tenths of its memory',
    wrong: { [active('outrider_redis_used_memory_bytes')]: turning(5 * GIB, 9 * GIB) },
  },
  {
    alert: 'OutriderDeadLettersOld',
    what: 'a dead letter is a week old',
    wrong: {
      [active('outrider_dead_letters_oldest_seconds', 'stream="orders",group="billing"')]: turning(0, 7 * 86_400 + 1),
    },
  },
  {
    alert: 'OutriderRetentionHeld',
    what: 'rows stay for a day longer than they should',
    wrong: { [active('outrider_outbox_retention_lag_seconds')]: turning(0, 86_400) },
  },
  {
    alert: 'OutriderOutboxLarge',
    what: 'the outbox has grown to nine tenths of what it may have',
    wrong: { [active('outrider_outbox_bytes')]: turning(5 * GIB, 9 * GIB) },
  },
  {
    alert: 'OutriderPossiblePhantoms',
    what: 'Postgres failed over and lost transactions',
    wrong: { [active('outrider_open_incidents', 'kind="operator"')]: turning(0, 1) },
  },
  {
    alert: 'OutriderBlocked',
    what: 'Redis is full, which it never was before',
    wrong: { [active('outrider_blocked_seconds_total', 'reason="redis_oom"')]: turning('_', '0+60') },
  },
  {
    alert: 'OutriderBlocked',
    what: 'Postgres waits for a standby that is away',
    wrong: { [active('outrider_blocked_seconds_total', 'reason="standby_not_confirming"')]: turning('_', '0+60') },
  },
  {
    alert: 'OutriderEventsLate',
    what: 'one in a hundred takes a minute',
    wrong: { [LATENCY('0.1')]: turning('0+100', `${100 * BEFORE}+90`) },
  },
  {
    alert: 'OutriderEventsLate',
    what: 'what is in flight is a minute old',
    wrong: { [active('outrider_inflight_oldest_seconds')]: turning(0, 60) },
  },
  {
    alert: 'OutriderEventsVeryLate',
    what: 'an event waits',
    wrong: { [active('outrider_inflight_oldest_seconds')]: turning(0, '0+60') },
    also: ['OutriderEventsLate'],
  },
  {
    alert: 'OutriderNotConfirming',
    what: 'events come and none is confirmed',
    wrong: { [active('outrider_last_confirmed_timestamp_seconds')]: turning('0+60', ONSET * 60) },
  },
  {
    alert: 'OutriderNotConfirming',
    what: 'nothing comes any more, but what came is not confirmed',
    wrong: {
      [active('outrider_events_received_total')]: always(5),
      [active('outrider_last_confirmed_timestamp_seconds')]: turning('0+60', ONSET * 60),
      [active('outrider_slot_lag_bytes')]: turning(1e5, 3e7),
    },
  },
  {
    alert: 'OutriderReconnecting',
    what: 'the connection to Redis breaks every two minutes',
    wrong: { [active('outrider_epochs_total')]: turning(1, '1+0.5') },
  },
  {
    alert: 'OutriderDurabilityLowered',
    what: 'auto went from fsync to memory',
    wrong: {
      [active('outrider_durability_level', 'level="fsync"')]: turning(1, 0),
      [active('outrider_durability_level', 'level="memory"')]: turning(0, 1),
    },
  },
  {
    alert: 'OutriderSlotWalHigh',
    what: 'a third of the limit is held back',
    wrong: {
      [active('outrider_slot_retained_wal_bytes')]: turning(16e6, 3 * GIB),
      [active('outrider_slot_safe_wal_bytes')]: turning(10 * GIB, 7 * GIB),
    },
  },
  {
    alert: 'OutriderSlotWalHigh',
    what: 'there is no limit, and 2 GiB are held back',
    wrong: {
      [active('outrider_slot_retained_wal_bytes')]: turning(16e6, 2 * GIB),
      [active('outrider_slot_safe_wal_bytes')]: UNBOUNDED,
    },
  },
  {
    alert: 'OutriderSlotWalCritical',
    what: 'most of the limit is held back',
    wrong: {
      [active('outrider_slot_retained_wal_bytes')]: turning(16e6, 6 * GIB),
      [active('outrider_slot_safe_wal_bytes')]: turning(10 * GIB, 4 * GIB),
    },
    also: ['OutriderSlotWalHigh'],
  },
  {
    alert: 'OutriderSlotWalCritical',
    what: 'there is no limit, and 6 GiB are held back',
    wrong: {
      [active('outrider_slot_retained_wal_bytes')]: turning(16e6, 6 * GIB),
      [active('outrider_slot_safe_wal_bytes')]: UNBOUNDED,
    },
    also: ['OutriderSlotWalHigh'],
  },
  {
    alert: 'OutriderSlotWalFillsUp',
    what: 'it grows by 3 GiB an hour, of 10',
    wrong: {
      [active('outrider_slot_retained_wal_bytes')]: turning(16e6, `16000000+${0.05 * GIB}`),
      [active('outrider_slot_safe_wal_bytes')]: turning(10 * GIB, `${10 * GIB}-${0.05 * GIB}`),
    },
  },
  {
    alert: 'OutriderSlotAtRisk',
    what: 'Postgres may remove what the slot needs',
    wrong: {
      [active('outrider_slot_wal_status', 'status="reserved"')]: turning(1, 0),
      [active('outrider_slot_wal_status', 'status="unreserved"')]: turning('_', 1),
    },
  },
  {
    alert: 'OutriderSlotUnknown',
    what: 'the active relay says nothing of its slot',
    wrong: gone('outrider_slot'),
  },
  ...CONSUMERS,
]
