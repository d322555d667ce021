import { describe, expect, it } from 'vitest'
import { createRelayMetrics } from './metrics.js'

type Sample = Record<string, number>

/** Every sample of Outrider's own, by its name and labels as Prometheus would read them. */
async function scrape(metrics: ReturnType<typeof createRelayMetrics>): Promise<Sample> {
  const text = await metrics.registry.metrics()
  return Object.fromEntries(
    text
      .split('\n')
      .filter((line) => line.startsWith('outrider_'))
      .map((line) => {
        const at = line.lastIndexOf(' ')
        return [line.slice(0, at), Number(line.slice(at + 1).replace('+Inf', 'Infinity'))]
      }),
  )
}

describe('metrics', () => {
  it('are named as Prometheus requires them: a prefix, base units, _total for counters', async () => {
    const metrics = createRelayMetrics()
    metrics.watchInflight(() => ({ events: 0, bytes: 0, oldestSeconds: 0 }))
    for (const { name, type } of await metrics.registry.getMetricsAsJSON()) {
      if (!name.startsWith('outrider_')) continue
      expect(name).toMatch(/^outrider_[a-z_]+$/)
      expect(name.endsWith('_total'), name).toBe(String(type) === 'counter')
      expect(name).not.toMatch(/_(ms|us|kb|mb|percent|count)$/)
    }
  })

  it('live in a registry of their own', () => {
    expect(createRelayMetrics().registry).not.toBe(createRelayMetrics().registry)
  })

  it('count what was received, appended, recognised and rejected', async () => {
    const metrics = createRelayMetrics()
    metrics.received.inc()
    metrics.received.inc(4)
    metrics.appended('orders', 3, 1, 0.002)
    metrics.appended('orders:7', 2, 0, 0.002)
    metrics.appended('orders', 0, 0, 0.001)
    metrics.rejected('too_large')
    expect(await scrape(metrics)).toMatchObject({
      outrider_events_received_total: 5,
      'outrider_events_appended_total{stream="orders"}': 5,
      outrider_events_skipped_total: 1,
      'outrider_events_rejected_total{reason="too_large"}': 1,
      outrider_append_batch_events_count: 2,
      outrider_append_batch_events_sum: 6,
      outrider_append_duration_seconds_count: 3,
    })
    expect((await scrape(metrics)).outrider_events_received_total).toBe(5)
  })

  it('stay bounded, however many streams there are', async () => {
    const metrics = createRelayMetrics()
    for (let i = 0; i < 1_000; i++) metrics.appended(`s${i}`, 1, 0, 0.001)
    metrics.appended('s0', 1, 0, 0.001)
    const series = Object.entries(await scrape(metrics)).filter(([name]) =>
      name.startsWith('outrider_events_appended_total'),
    )
    expect(series).toHaveLength(201)
    expect(Object.fromEntries(series)).toMatchObject({
      'outrider_events_appended_total{stream="s0"}': 2,
      'outrider_events_appended_total{stream="other"}': 800,
    })
  })

  it('show exactly one role, state and durability level', async () => {
    const metrics = createRelayMetrics()
    metrics.setRole('standby', 'waiting')
    metrics.setRole('active', 'streaming')
    metrics.setDurability('fsync')
    metrics.setDurability('memory')
    expect(await scrape(metrics)).toMatchObject({
      'outrider_role{role="standby"}': 0,
      'outrider_role{role="active"}': 1,
      'outrider_state{state="waiting"}': 0,
      'outrider_state{state="streaming"}': 1,
      'outrider_durability_level{level="fsync"}': 0,
      'outrider_durability_level{level="memory"}': 1,
    })
  })

  it('tell how long nothing could flow, also while it lasts', async () => {
    const metrics = createRelayMetrics()
    const blocked = async () => (await scrape(metrics))['outrider_blocked_seconds_total{reason="redis_oom"}'] ?? 0
    metrics.setRole('active', 'streaming')
    expect(await blocked()).toBe(0)
    metrics.setRole('active', 'blocked', 'redis_oom')
    await expect.poll(blocked).toBeGreaterThan(0)
    const before = await blocked()
    await expect.poll(blocked).toBeGreaterThan(before)
    metrics.setRole('active', 'streaming')
    const after = await blocked()
    expect(await blocked()).toBe(after)
  })

  it('ask for what is in flight when someone looks', async () => {
    const metrics = createRelayMetrics()
    let events = 1
    metrics.watchInflight(() => ({ events, bytes: events * 100, oldestSeconds: 0.5 }))
    expect(await scrape(metrics)).toMatchObject({
      outrider_inflight_events: 1,
      outrider_inflight_bytes: 100,
      outrider_inflight_oldest_seconds: 0.5,
    })
    events = 2
    expect(await scrape(metrics)).toMatchObject({ outrider_inflight_events: 2, outrider_inflight_bytes: 200 })
    metrics.watchInflight(() => ({ events: 9, bytes: 9, oldestSeconds: 0 }))
    expect(await scrape(metrics)).toMatchObject({ outrider_inflight_events: 9 })
  })

  it('tell about the slot', async () => {
    const metrics = createRelayMetrics()
    const sizes = { retainedBytes: 10, lagBytes: 5, safeBytes: 100 }
    metrics.slot({ ...sizes, walStatus: 'reserved' })
    expect(await scrape(metrics)).toMatchObject({
      outrider_slot_retained_wal_bytes: 10,
      outrider_slot_lag_bytes: 5,
      outrider_slot_safe_wal_bytes: 100,
      'outrider_slot_wal_status{status="reserved"}': 1,
    })
    metrics.slot({ ...sizes, safeBytes: undefined, walStatus: 'unreserved' })
    expect(await scrape(metrics)).toMatchObject({
      outrider_slot_safe_wal_bytes: Number.POSITIVE_INFINITY,
      'outrider_slot_wal_status{status="reserved"}': 0,
      'outrider_slot_wal_status{status="unreserved"}': 1,
    })
  })

  it('add up the partitions of a stream, and tell of the fullest server of Redis', async () => {
    const metrics = createRelayMetrics()
    const of = async (names: RegExp) =>
      Object.fromEntries(Object.entries(await scrape(metrics)).filter(([name]) => names.test(name)))
    const stream = { entries: 1, bytes: 10, oldestSeconds: 5, overdueSeconds: 0, heldBy: undefined }
    const dead = (group: string, count: number, oldestSeconds: number) => ({ group, count, oldestSeconds })
    metrics.setStream('orders:0', {
      ...{ ...stream, memory: { used: 800, max: 1_000 } },
      deadLetters: [dead('billing', 2, 60), dead('mail', 0, 0)],
    })
    metrics.setStream('orders:1', {
      ...{ ...stream, memory: { used: 900, max: 9_000 }, deadLetters: [dead('billing', 3, 50)] },
    })
    metrics.setStream('users', { ...stream, bytes: undefined, memory: undefined, deadLetters: [] })
    expect(await of(/stream_|dead_letters|redis_/)).toEqual({
      'outrider_stream_entries{stream="orders"}': 2,
      'outrider_stream_entries{stream="users"}': 1,
      'outrider_stream_bytes{stream="orders"}': 20,
      'outrider_stream_oldest_entry_seconds{stream="orders"}': 5,
      'outrider_stream_oldest_entry_seconds{stream="users"}': 5,
      'outrider_dead_letters{stream="orders",group="billing"}': 5,
      'outrider_dead_letters{stream="orders",group="mail"}': 0,
      'outrider_dead_letters_oldest_seconds{stream="orders",group="billing"}': 60,
      'outrider_dead_letters_oldest_seconds{stream="orders",group="mail"}': 0,
      outrider_redis_used_memory_bytes: 800,
      outrider_redis_max_memory_bytes: 1_000,
    })
    metrics.removeStream('orders:0')
    metrics.setStream('orders:1', { ...stream, memory: { used: 7, max: undefined }, deadLetters: [] })
    expect(await of(/stream_bytes|dead_letters|redis_/)).toEqual({
      'outrider_stream_bytes{stream="orders"}': 10,
      outrider_redis_used_memory_bytes: 7,
    })
    metrics.forget()
    expect(await of(/stream_|dead_letters|redis_/)).toEqual({})
  })

  it('say nothing of what is not known: a 0 would be an alarm, or hide one', async () => {
    const metrics = createRelayMetrics()
    const known = async () =>
      Object.entries(await scrape(metrics))
        .filter(
          ([name, value]) =>
            /slot|confirmed|durability_level|incidents/.test(name) && (value > 0 || !name.includes('{')),
        )
        .map(([name]) => name)
    expect(await known()).toEqual([])
    const see = () => {
      metrics.slot({ retainedBytes: 10, lagBytes: 5, safeBytes: 100, walStatus: 'reserved' })
      metrics.setDurability('fsync')
      metrics.setOpenIncidents(new Map([['rejected', 1]]))
    }
    const seen = [
      'outrider_slot_retained_wal_bytes',
      'outrider_slot_lag_bytes',
      'outrider_slot_safe_wal_bytes',
      'outrider_slot_wal_status{status="reserved"}',
      'outrider_open_incidents{kind="rejected"}',
      'outrider_durability_level{level="fsync"}',
    ]
    for (const lose of [
      () => metrics.setRole('standby', 'waiting'),
      () => metrics.setRole('starting', 'reconnecting'),
      () => metrics.forget(),
    ]) {
      metrics.setRole('active', 'streaming')
      see()
      expect(await known()).toEqual(seen)
      metrics.setRole('halted', 'halted', 'stream_behind')
      expect(await known()).toEqual(seen)
      lose()
      expect(await known()).toEqual([])
    }
    metrics.slot(undefined)
    metrics.confirmed(1_700_000_000)
    expect(await scrape(metrics)).toMatchObject({ outrider_last_confirmed_timestamp_seconds: 1_700_000_000 })
  })
})
