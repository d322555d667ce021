import { graph, type Panel, quantiles, row, stat, states, table, timeline } from './dashboard-kinds.js'

/** The panels of the dashboard, in their order. */
export const panels: readonly Panel[] = [
  row('Health'),
  stat(
    'Active relays',
    'Must be 1. See OutriderNoActiveRelay and OutriderSeveralActiveRelays.',
    'short',
    'sum(outrider_role{role="active"}) or vector(0)',
    ['red', 1, 'green', 2, 'red'],
  ),
  stat('Ready relays', 'Active or standby.', 'short', 'sum(outrider_role{role=~"active|standby"}) or vector(0)', [
    'red',
    1,
    'yellow',
    2,
    'green',
  ]),
  stat(
    'Open incidents',
    'Without gaps that are repaired. Run outrider incidents.',
    'short',
    'sum(max by (kind) (outrider_open_incidents))',
    ['green', 1, 'red'],
  ),
  stat(
    'Oldest event waiting',
    'Time since its commit, of the events in the memory of the relay.',
    's',
    'max(outrider_inflight_oldest_seconds)',
    ['green', 30, 'yellow', 300, 'red'],
  ),
  stat(
    'Since the last confirmation',
    'A few seconds while the database is written to. Rises while it is not.',
    's',
    'time() - max(outrider_last_confirmed_timestamp_seconds)',
    ['green', 60, 'yellow', 300, 'red'],
  ),
  stat(
    'WAL held back',
    'Share of max_slot_wal_keep_size. 0 where that setting is -1.',
    'percentunit',
    'max(outrider_slot_retained_wal_bytes / (outrider_slot_retained_wal_bytes + outrider_slot_safe_wal_bytes))',
    ['green', 0.25, 'yellow', 0.5, 'red'],
  ),
  states('Roles', 'Role of each pod.', 12, {
    metric: 'outrider_role',
    label: 'role',
    by: ' by (pod, instance) ',
    legend: '{{pod}} {{instance}}',
    colors: { starting: 'orange', standby: 'blue', active: 'green', halted: 'red', stopping: 'purple' },
  }),
  states('States', 'State of each pod. The healthy state is streaming.', 12, {
    metric: 'outrider_state',
    label: 'state',
    by: ' by (pod, instance) ',
    legend: '{{pod}} {{instance}}',
    colors: {
      starting: 'orange',
      reconnecting: 'orange',
      waiting: 'blue',
      streaming: 'green',
      repairing: 'yellow',
      blocked: 'red',
      halted: 'dark-red',
      draining: 'purple',
    },
  }),
  graph(
    'Incidents by kind',
    'gap and foreign stop the relay. rejected concerns single rows.',
    'short',
    { '{{kind}}': 'max by (kind) (outrider_open_incidents)' },
    { width: 12 },
  ),
  graph(
    'Repair of a gap',
    'Events that were missing, and that are put back from the outbox. Both keep the numbers of the last repair.',
    'short',
    { missing: 'max(outrider_repair_events_found)', 'put back': 'max(outrider_repair_events_put_back)' },
    { width: 12 },
  ),
  table('Versions', 'Version of Outrider and Node in each pod.', 'count by (version, node, pod) (outrider_build_info)'),
  row('WAL and the slot'),
  graph(
    'WAL held back',
    'retained: what Postgres cannot remove. lag: written since the last confirmed position.',
    'bytes',
    { retained: 'max(outrider_slot_retained_wal_bytes)', lag: 'max(outrider_slot_lag_bytes)' },
  ),
  graph('WAL until the slot is lost', 'Empty where max_slot_wal_keep_size is -1: the disk is the limit.', 'bytes', {
    safe: 'min(outrider_slot_safe_wal_bytes < Inf)',
  }),
  states('WAL status of the slot', 'wal_status in pg_replication_slots.', 8, {
    metric: 'outrider_slot_wal_status',
    label: 'status',
    legend: 'wal_status',
    colors: { reserved: 'green', extended: 'yellow', unreserved: 'orange', lost: 'red' },
  }),
  row('Outbox'),
  graph(
    'Outbox',
    'Bytes of outrider.outbox with its indexes. Beyond the limit the oldest published rows are emptied early.',
    'bytes',
    { size: 'max(outrider_outbox_bytes)', limit: 'max(outrider_outbox_max_bytes)' },
  ),
  graph('Rows of the outbox', 'As the statistics of Postgres have it.', 'short', { rows: 'max(outrider_outbox_rows)' }),
  graph(
    'Oldest row',
    'oldest: since it was known to be published. kept: age up to which all rows are kept. overdue: by which the oldest has outlived retention.',
    's',
    {
      oldest: 'max(outrider_outbox_oldest_row_seconds)',
      kept: 'max(outrider_outbox_retention_seconds)',
      overdue: 'max(outrider_outbox_retention_lag_seconds)',
    },
  ),
  graph('Buckets emptied', 'One in four hours, or as long as a bucket lasts.', 'short', {
    buckets: 'sum(increase(outrider_outbox_buckets_emptied_total[rate]))',
  }),
  graph(
    'Rows stay that are due, by reason',
    'docs/operations.md explains the reasons. The slot is that of the lineage that keeps the rows, where it is one.',
    'short',
    {
      '{{reason}}': 'max by (reason) (outrider_outbox_retention_blocked)',
      '{{reason}} {{slot}}': 'max by (reason, slot) (outrider_outbox_retention_held)',
    },
    { width: 16 },
  ),
  row('Streams and dead letters'),
  graph(
    'Entries by stream',
    'At the last look of trimming, at most a minute ago. Partitions are counted together.',
    'short',
    {
      '{{stream}}': 'max by (stream) (outrider_stream_entries)',
    },
  ),
  graph(
    'Memory by stream',
    'The stream and its groups, as Redis estimates from some of the entries. Without dead letters.',
    'bytes',
    { '{{stream}}': 'max by (stream) (outrider_stream_bytes)' },
  ),
  graph(
    'Memory of Redis',
    'In a cluster, of the fullest server that has streams. No limit is shown where there is none.',
    'bytes',
    {
      used: 'max(outrider_redis_used_memory_bytes)',
      limit: 'max(outrider_redis_max_memory_bytes)',
    },
  ),
  graph('Oldest entry', 'Age of the first entry of each stream.', 's', {
    '{{stream}}': 'max by (stream) (outrider_stream_oldest_entry_seconds)',
  }),
  graph(
    'Trimming overdue',
    'By how long the first entry has outlived its retention, and the group that has not finished it. See OutriderTrimHeld.',
    's',
    { '{{stream}} {{group}}': 'max by (stream, group) (outrider_trim_overdue_seconds)' },
  ),
  graph('Entries trimmed', 'cut: by maxLength, before the group had finished them. See OutriderEntriesCut.', 'short', {
    '{{stream}}': 'sum by (stream) (increase(outrider_entries_trimmed_total[rate]))',
    'cut {{stream}} {{group}}': 'sum by (stream, group) (increase(outrider_entries_cut_total[rate]))',
  }),
  graph(
    'Dead letters',
    'They stay until a person replays or discards them, or for deadLetterRetention.',
    'short',
    { '{{stream}} {{group}}': 'max by (stream, group) (outrider_dead_letters)' },
    { width: 12 },
  ),
  graph(
    'Oldest dead letter',
    'See OutriderDeadLettersOld.',
    's',
    { '{{stream}} {{group}}': 'max by (stream, group) (outrider_dead_letters_oldest_seconds)' },
    { width: 12 },
  ),
  row('Throughput and events in flight'),
  graph(
    'Events',
    'received: from Postgres. appended: to Redis. recognised: replayed events that were in Redis already.',
    'ops',
    {
      received: 'sum(rate(outrider_events_received_total[rate]))',
      appended: 'sum(rate(outrider_events_appended_total[rate]))',
      recognised: 'sum(rate(outrider_events_skipped_total[rate]))',
    },
  ),
  graph(
    'Appended by stream',
    'Partitions of a stream are counted together.',
    'ops',
    { '{{stream}}': 'sum by (stream) (rate(outrider_events_appended_total[rate]))' },
    { stacked: true },
  ),
  graph(
    'Commit to Redis',
    'Time from the commit to the append, by the clocks of Postgres and of the relay.',
    's',
    quantiles('outrider_commit_to_append_seconds'),
  ),
  graph('In flight, events', 'Received and not yet appended.', 'short', { events: 'sum(outrider_inflight_events)' }),
  graph('In flight, bytes', 'At limits.inflightBytes the relay stops reading.', 'bytes', {
    bytes: 'sum(outrider_inflight_bytes)',
  }),
  graph('Oldest in flight', 'Time since its commit.', 's', { age: 'max(outrider_inflight_oldest_seconds)' }),
  row('Blocked and rejected'),
  graph(
    'Blocked, by reason',
    'Share of time in which the relay was blocked. docs/operations.md and /readyz explain the reasons.',
    'percentunit',
    { '{{reason}}': 'max by (reason) (rate(outrider_blocked_seconds_total[rate]))' },
    { width: 16, stacked: true },
  ),
  graph('Rejected rows, by reason', 'Each rejected row is an incident.', 'short', {
    '{{reason}}': 'sum by (reason) (increase(outrider_events_rejected_total[rate]))',
  }),
  row('Redis and durability'),
  states('Durability level', 'Level at which positions are confirmed. auto uses the strongest level that works.', 24, {
    metric: 'outrider_durability_level',
    label: 'level',
    legend: 'level',
    colors: { memory: 'orange', fsync: 'yellow', replicated: 'green', 'fsync+replicated': 'dark-green' },
  }),
  graph(
    'Waiting for durability',
    'Duration of the durability barrier, which runs at most once a second for all streams.',
    's',
    quantiles('outrider_durability_wait_seconds'),
  ),
  graph(
    'Time of an append',
    'Duration of one call of the script, with the network.',
    's',
    quantiles('outrider_append_duration_seconds'),
  ),
  graph('Events in an append', 'Mean size of a batch, at most limits.batchEvents.', 'short', {
    mean: 'sum(rate(outrider_append_batch_events_sum[rate])) / sum(rate(outrider_append_batch_events_count[rate]))',
  }),
  row('Errors, sessions, process'),
  graph('Errors', 'By server and code.', 'short', {
    '{{target}} {{code}}': 'sum by (target, code) (increase(outrider_errors_total[rate]))',
  }),
  graph(
    'Connections',
    'sessions: started as the active relay. epochs: connections to Redis after one was lost.',
    'short',
    {
      sessions: 'sum(increase(outrider_sessions_total[rate]))',
      epochs: 'sum(increase(outrider_epochs_total[rate]))',
    },
  ),
  graph('CPU', 'Share of one core.', 'percentunit', { '{{pod}}': 'rate(process_cpu_seconds_total[rate])' }),
  graph('Memory', '', 'bytes', { '{{pod}}': 'process_resident_memory_bytes' }),
  graph('Event loop delay', '99th percentile. Above 0.1 s the relay lacks CPU.', 's', {
    '{{pod}}': 'nodejs_eventloop_lag_p99_seconds',
  }),
  row('Consumers'),
  graph('Processed, by result', 'Events that a group has processed.', 'ops', {
    '{{group}} {{result}}': 'sum by (group, result) (rate(outrider_consumer_processed_total[rate]))',
  }),
  graph('Lag', 'Entries not delivered yet. Also 0 where the lag is unknown: see the next panel.', 'short', {
    '{{group}} {{stream}}': 'max by (namespace, group, stream) (outrider_consumer_lag)',
  }),
  timeline('Lag known', 'Whether Redis reports the lag of the group.', 8, {
    legend: '{{group}} {{stream}}',
    expr: 'max by (namespace, group, stream) (outrider_consumer_lag_known)',
    colors: { unknown: 'orange', known: 'green' },
    first: 0,
  }),
  graph('Pending', 'Entries delivered and not acknowledged.', 'short', {
    '{{group}} {{stream}}': 'max by (namespace, group, stream) (outrider_consumer_pending)',
  }),
  graph('Oldest pending', 'Age of the oldest pending entry.', 's', {
    '{{group}} {{stream}}': 'max by (namespace, group, stream) (outrider_consumer_oldest_pending_seconds)',
  }),
  graph(
    'Age when processed',
    'Time from the event to the commit of its effects.',
    's',
    quantiles('outrider_consumer_event_age_seconds', ['group']),
  ),
  graph(
    'Handlers',
    'Duration of the transaction, or of work and commit.',
    's',
    quantiles('outrider_consumer_handler_duration_seconds', ['group', 'type']),
  ),
  graph('Failed attempts', 'Attempts that failed and will be retried, by reason.', 'short', {
    '{{group}} {{type}} {{reason}}': 'sum by (group, type, reason) (increase(outrider_consumer_retries_total[rate]))',
  }),
  graph(
    'Dead letters and losses',
    'trimmed: pending entries that were removed from the stream. The group lost them.',
    'short',
    {
      '{{group}} {{reason}}': 'sum by (group, reason) (increase(outrider_consumer_dead_letters_total[rate]))',
      '{{group}} trimmed': 'sum by (group) (increase(outrider_consumer_trimmed_total[rate]))',
    },
  ),
  graph('Duplicates', 'Deliveries of events that the group had processed before.', 'short', {
    '{{group}} {{stream}}': 'sum by (group, stream) (increase(outrider_consumer_duplicates_total[rate]))',
  }),
  graph(
    'Events in the workers',
    'running: in a handler. waiting: for the next attempt. held: all entries of the workers.',
    'short',
    {
      '{{group}} running': 'sum by (group) (outrider_consumer_running)',
      '{{group}} waiting': 'sum by (group) (outrider_consumer_waiting)',
      '{{group}} held': 'sum by (group) (outrider_consumer_held)',
    },
  ),
  graph('Since a worker last received an entry', 'Rises where a stream is empty or a worker does not read.', 's', {
    '{{group}} {{pod}} {{instance}}': 'outrider_consumer_idle_seconds',
  }),
]
