/** Series by name and labels; values as promtool writes them, one a minute. */
export type Series = Record<string, string>

/** In minutes: all windows are full before, and after it there is time for the slowest alert. */
export const ONSET = 45
export const END = 95
export const BEFORE = ONSET
export const AFTER = END - ONSET

/** The value is this all the time. */
export const always = (value: number) => `${value}x${BEFORE + AFTER}`
/** What nothing bounds: promtool knows no Infx95. */
export const UNBOUNDED = 'Inf '.repeat(BEFORE + AFTER)
/** It rises by `step` a minute. */
const rising = (step: number) => `0+${step}x${BEFORE + AFTER}`
/** Well before the onset, wrong after it; both may be values, rises such as 0+5 a minute, or _ for none. */
export const turning = (well: number | string, wrong: number | string) =>
  // To promtool 1x44 are 45 values, and _x45 are 45 gaps.
  `${well}x${well === '_' ? BEFORE : BEFORE - 1} ${wrong}x${AFTER}`

const pod = (name: string, more = '') => `{namespace="shop",job="shop-outrider",pod="${name}"${more && `,${more}`}}`
export const active = (metric: string, more?: string) => metric + pod('a', more)
export const standby = (metric: string, more?: string) => metric + pod('b', more)
/** A pod that a rollout adds. */
export const newcomer = (role: string) => `outrider_role${pod('c', `role="${role}"`)}`
export const worker = (metric: string, more = '') =>
  `outrider_consumer_${metric}{namespace="workers",job="billing",pod="w",group="billing"${more && `,${more}`}}`

export const LATENCY = (le: string) => active('outrider_commit_to_append_seconds_bucket', `le="${le}"`)
export const ORDERS = 'stream="orders"'
export const PLACED = 'type="order.placed"'
export const GIB = 2 ** 30

/** Two relays, of which b is the standby, and a consumer group. */
export const HEALTH: Series = {
  [active('up')]: always(1),
  [standby('up')]: always(1),
  [active('process_start_time_seconds')]: always(0),
  [standby('process_start_time_seconds')]: always(0),
  [active('outrider_role', 'role="standby"')]: always(0),
  [active('outrider_role', 'role="active"')]: always(1),
  [standby('outrider_role', 'role="standby"')]: always(1),
  [active('outrider_open_incidents', 'kind="gap"')]: always(0),
  [active('outrider_open_incidents', 'kind="foreign"')]: always(0),
  [active('outrider_open_incidents', 'kind="rejected"')]: always(0),
  [active('outrider_open_incidents', 'kind="operator"')]: always(0),
  [active('outrider_blocked_seconds_total', 'reason="redis_readonly"')]: always(12),
  [standby('outrider_blocked_seconds_total', 'reason="postgres_unreachable"')]: always(3),
  [active('outrider_inflight_oldest_seconds')]: always(0.01),
  [standby('outrider_inflight_oldest_seconds')]: always(0),
  [LATENCY('0.1')]: rising(100),
  [LATENCY('60')]: rising(100),
  [LATENCY('+Inf')]: rising(100),
  [active('outrider_last_confirmed_timestamp_seconds')]: rising(60),
  [active('outrider_events_received_total')]: rising(100),
  [standby('outrider_events_received_total')]: always(0),
  [active('outrider_sessions_total')]: always(1),
  [standby('outrider_sessions_total')]: always(0),
  [active('outrider_epochs_total')]: always(1),
  [standby('outrider_epochs_total')]: always(0),
  [active('outrider_durability_level', 'level="memory"')]: always(0),
  [active('outrider_durability_level', 'level="fsync"')]: always(1),
  [active('outrider_slot_retained_wal_bytes')]: always(16e6),
  [active('outrider_slot_lag_bytes')]: always(1e5),
  [active('outrider_slot_safe_wal_bytes')]: always(10 * GIB),
  [active('outrider_redis_used_memory_bytes')]: always(5 * GIB),
  [active('outrider_redis_max_memory_bytes')]: always(10 * GIB),
  [active('outrider_dead_letters_oldest_seconds', 'stream="orders",group="billing"')]: always(6 * 86_400),
  [active('outrider_outbox_bytes')]: always(5 * GIB),
  [active('outrider_outbox_max_bytes')]: always(10 * GIB),
  [active('outrider_outbox_retention_lag_seconds')]: always(60),
  [active('outrider_slot_wal_status', 'status="reserved"')]: always(1),
  [worker('running')]: always(2),
  [worker('oldest_running_seconds')]: always(2),
  [worker('lag', ORDERS)]: always(5),
  [worker('lag_known', ORDERS)]: always(1),
  [worker('oldest_pending_seconds', ORDERS)]: always(2),
  [worker('processed_total', `${ORDERS},${PLACED},result="done"`)]: rising(100),
  [worker('retries_total', `${PLACED},reason="failed"`)]: rising(1),
  [worker('dead_letters_total', `${ORDERS},${PLACED},reason="expired"`)]: always(4),
  [worker('trimmed_total', ORDERS)]: always(1),
}

export const of = (prefix: string, values: string | undefined) =>
  Object.fromEntries(Object.keys(HEALTH).flatMap((name) => (name.includes(prefix) ? [[name, values]] : [])))

/** As if it was killed: nothing more is told. */
export const gone = (prefix: string) =>
  Object.fromEntries(
    Object.entries(HEALTH).flatMap(([name, values]) =>
      name.includes(prefix) ? [[name, `${values.split('x')[0]}x${BEFORE - 1} stale _x${AFTER}`]] : [],
    ),
  )
