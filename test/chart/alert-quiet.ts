import type { AlertCase } from './alert-cases.js'
import {
  AFTER,
  active,
  always,
  BEFORE,
  GIB,
  gone,
  newcomer,
  ORDERS,
  PLACED,
  standby,
  turning,
  UNBOUNDED,
  worker,
} from './alert-health.js'

/** What is no reason to wake anybody, though it resembles one. */
export const QUIET: { what: string; wrong: AlertCase['wrong'] }[] = [
  {
    what: 'the standby was cut off from Postgres for minutes, and is back',
    wrong: { [standby('outrider_blocked_seconds_total', 'reason="postgres_unreachable"')]: turning(3, '3+60') },
  },
  {
    what: 'nothing is written to the database, so nothing is confirmed',
    wrong: {
      [active('outrider_last_confirmed_timestamp_seconds')]: always(60),
      [active('outrider_events_received_total')]: always(5),
    },
  },
  {
    what: 'the standby takes over and has not confirmed anything yet',
    wrong: {
      ...gone('pod="a"'),
      [standby('outrider_role', 'role="standby"')]: turning(1, 0),
      [standby('outrider_role', 'role="active"')]: turning('_', 1),
      [standby('outrider_slot_retained_wal_bytes')]: turning('_', 1),
      [standby('outrider_slot_lag_bytes')]: turning('_', 1e5),
      [newcomer('standby')]: turning('_', 1),
    },
  },
  {
    what: 'a gap was found, and was repaired within minutes',
    wrong: {
      [active('outrider_open_incidents', 'kind="gap"')]: `0x${BEFORE - 1} 1x11 0x${AFTER - 13}`,
      [active('outrider_state', 'state="repairing"')]: `_x${BEFORE} 1x11 0x${AFTER - 13}`,
    },
  },
  {
    what: 'the only relay was halted when it was scraped once, and went on',
    wrong: {
      [active('outrider_role', 'role="active"')]: `1x${BEFORE - 1} 0 1x${AFTER - 1}`,
      [active('outrider_role', 'role="halted"')]: `_x${BEFORE} 1 0x${AFTER - 1}`,
    },
  },
  {
    what: 'a relay halts for minutes while another one is active',
    wrong: {
      [standby('outrider_role', 'role="standby"')]: `1x${BEFORE - 1} 0x9 1x${AFTER - 10}`,
      [standby('outrider_role', 'role="halted"')]: `_x${BEFORE} 1x9 0x${AFTER - 10}`,
    },
  },
  {
    what: 'a new version waits some minutes for setup, while an old one is active',
    wrong: { [newcomer('starting')]: `_x${BEFORE} 1x9 0x${AFTER - 10}` },
  },
  {
    what: 'nothing bounds the WAL, and little is held back',
    wrong: { [active('outrider_slot_safe_wal_bytes')]: UNBOUNDED },
  },
  {
    what: 'rows of the outbox are kept without end: it has no limit',
    wrong: {
      [active('outrider_outbox_bytes')]: always(100 * GIB),
      [active('outrider_outbox_max_bytes')]: undefined,
      [active('outrider_outbox_retention_lag_seconds')]: undefined,
    },
  },
  {
    what: 'nothing bounds the memory of Redis, and much is used',
    wrong: {
      [active('outrider_redis_used_memory_bytes')]: always(100 * GIB),
      [active('outrider_redis_max_memory_bytes')]: undefined,
    },
  },
  {
    what: 'auto found a stronger level',
    wrong: {
      [active('outrider_durability_level', 'level="fsync"')]: turning(1, 0),
      [active('outrider_durability_level', 'level="fsync+replicated"')]: turning('_', 1),
    },
  },
  {
    what: 'handlers run for an hour while more waits',
    wrong: {
      [worker('lag', ORDERS)]: always(500),
      [worker('processed_total', `${ORDERS},${PLACED},result="done"`)]: always(3),
      [worker('retries_total', `${PLACED},reason="failed"`)]: always(0),
    },
  },
  {
    what: 'a large backlog becomes smaller',
    wrong: { [worker('lag', ORDERS)]: turning(5, '50000-900') },
  },
  {
    what: 'of two workers one was scaled away',
    wrong: {
      [worker('running').replace('pod="w"', 'pod="v"')]: turning(2, '_'),
    },
  },
  {
    what: 'the pods of two namespaces have the same job',
    wrong: { [active('outrider_role', 'role="active"').replace('namespace="shop"', 'namespace="test"')]: always(1) },
  },
]
