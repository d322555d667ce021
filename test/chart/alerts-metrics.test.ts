import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect } from 'vitest'
import { parse } from 'yaml'
import { DeadLetter } from '../../src/consumer/index.js'
import type { Result } from '../../src/consumer/metrics.js'
import type { IncidentKind } from '../../src/postgres/state/incident-reasons.js'
import { LEVELS } from '../../src/redis/streams/durability.js'
import type { Role } from '../../src/telemetry/metrics.js'
import { until } from '../../testkit/services/index.js'
import { consumerTest, effect } from '../consumer/consumer-env.js'
import { GROUP, Happened } from '../consumer/happened.js'
import { leaveBehind, metricOf } from '../consumer/watch.js'
import { relayTest } from '../relay/relay-env.js'
import { type Emitted, emittedBy, emittedIn } from './emitted.js'
import { askedBy, TARGET_LABELS } from './promql.js'
import { CHART } from './render.js'

interface Question {
  where: string
  expr: string
}

// What is asked is read from the chart's files: for this, no Helm is needed.
const file = (name: string) => readFileSync(join(CHART, 'files', name), 'utf8')

const alerts: Question[] = ['relay', 'slot', 'consumers'].flatMap((name) =>
  (parse(file(`alerts/${name}.yaml`)) as { alert: string; expr: string }[]).map(({ alert, expr }) => ({
    where: alert,
    // As the chart does: matchers of the release for two of these, terms for groups that are expected, and numbers.
    expr: expr
      .replaceAll(/\$(relay|consumers)\b/g, 'job="shop"')
      .replaceAll('$expected', '')
      .replaceAll(/\$\w+/g, '5m'),
  })),
)

const panels: Question[] = (
  JSON.parse(file('dashboard.json')) as { panels: { title: string; targets?: { expr: string }[] }[] }
).panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ where: title, expr })))

/** Values that a healthy minute does not show, as the code has them. */
const roles: Role[] = ['starting', 'standby', 'active', 'halted', 'stopping']
const kinds: IncidentKind[] = ['gap', 'foreign', 'rejected', 'operator']
const results: Result[] = ['done']
const KNOWN: Record<string, readonly string[]> = {
  ...{ role: roles, kind: kinds, level: LEVELS, result: results },
  state: ['starting', 'reconnecting', 'waiting', 'streaming', 'repairing', 'blocked', 'halted', 'draining'],
  // https://www.postgresql.org/docs/current/view-pg-replication-slots.html
  status: ['reserved', 'extended', 'unreserved', 'lost'],
}

/** That everything which is asked of metrics like these is there to be answered. */
function expectAnswers(questions: Question[], emitted: Map<string, Emitted>, own: RegExp): void {
  let asked = 0
  for (const { where, expr } of questions) {
    const { metrics, grouping } = askedBy(expr)
    const mine = metrics.filter(({ name }) => own.test(name))
    asked += mine.length
    for (const { name, labels } of mine) {
      const found = emitted.get(name)
      expect(found, `${where} asks for ${name}`).toBeDefined()
      for (const [label, value] of Object.entries(labels)) {
        if (TARGET_LABELS.includes(label)) continue
        const values = found?.labels.get(label)
        expect(values, `${where} asks for ${name}{${label}}`).toBeDefined()
        if (value.startsWith('$')) continue
        const known = [...(values ?? []), ...(KNOWN[label] ?? [])]
        expect(known, `${where} asks for ${name}{${label}="${value}"}`).toEqual(
          expect.arrayContaining(value.split('|')),
        )
      }
    }
    if (mine.length === 0) continue
    const labels = mine.flatMap(({ name }) => [...(emitted.get(name)?.labels.keys() ?? [])])
    expect([...TARGET_LABELS, ...labels], `${where} groups`).toEqual(expect.arrayContaining(grouping))
  }
  expect(asked).toBeGreaterThan(10)
}

describe('what alerts and dashboard ask for', () => {
  relayTest('of a relay, a relay tells', async ({ env, configFile }) => {
    await env.redis.set('taken', 'a string')
    await env.redis.xgroup('CREATE', 'orders', 'billing', '0', 'MKSTREAM')
    // A row that is due, and another lineage that keeps it.
    await env.postgres.query(
      `create or replace function outrider.bucket() returns smallint language sql volatile parallel safe return 1::smallint;
       insert into outrider.outbox (stream, type, bucket) values ('users', 'test.happened', 3);
       insert into outrider.lineage (slot, publication, source, outbox_table, system_id, timeline, publication_state)
       select 'abandoned', publication, source, outbox_table, system_id, timeline, publication_state from outrider.lineage`,
    )
    const yaml = 'streams: { orders: { retention: 10s, maxLength: 1 } }'
    const relay = await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(yaml) })
    await env.postgres.query('select pg_terminate_backend($1)', [await env.walsender()])
    await until(async () => (await relay.metric('outrider_sessions_total')) === 2)
    for (let n = 0; n < 2; n++) await env.insert('orders')
    await env.insert('taken')
    await until(
      async () =>
        (await relay.metric('outrider_entries_cut_total')) === 1 &&
        (await relay.metric('outrider_open_incidents{kind="rejected"}')) === 1 &&
        (await relay.metric('outrider_last_confirmed_timestamp_seconds')) !== undefined &&
        (await relay.metric('outrider_outbox_bytes')) !== undefined,
      { message: () => `the rejected row, and what was cut, to be counted\n${relay.tail()}` },
    )
    const response = await fetch(`http://127.0.0.1:${relay.httpPort}/metrics`)
    const emitted = emittedIn(await response.text())
    const own = /^(process|nodejs)_|^outrider_(?!consumer_)/
    expectAnswers(alerts, emitted, own)
    expectAnswers(panels, emitted, own)
  })

  relayTest('of the slot, a relay tells also while it is halted', async ({ env }) => {
    await env.postgres.query("alter publication outrider set (publish = 'insert, delete')")
    const relay = await env.relay()
    await relay.is({ role: 'halted', reason: 'publication_changed' })
    const retained = () => relay.metric('outrider_slot_retained_wal_bytes')
    const before = await until(retained)
    await env.postgres.query('create table filler as select generate_series(1, 100000)')
    await until(async () => ((await retained()) ?? 0) > before + 1e6, { message: 'the WAL that piles up to be told' })
    expect(await relay.metric('outrider_open_incidents{kind="gap"}')).toBe(1)
    expect(await relay.metric('outrider_slot_wal_status')).toBe(1)
  })

  consumerTest('of a consumer, a consumer tells', async ({ env }) => {
    const lost = await leaveBehind(env.redis, 'things', [{ n: 0 }])
    await env.redis.xdel('things', ...lost)
    const [once] = await env.append('things', [{ n: 1 }, { n: 2 }, { n: 3 }])
    await env.append('things', [{ n: 1 }], { id: once as string })
    let failed = false
    const consumer = env.consumer({ claimAfter: '200ms' }).on(Happened, async (event, context) => {
      if (event.data.n === 2 && !failed) {
        failed = true
        throw new Error('the first attempt')
      }
      if (event.data.n === 3) throw new DeadLetter('never')
      await effect(event, context)
    })
    await consumer.start()
    await until(
      async () =>
        (await metricOf(consumer, 'dead_letters_total')) === 1 &&
        (await metricOf(consumer, 'duplicates_total')) === 1 &&
        (await metricOf(consumer, 'trimmed_total')) === 1 &&
        (await metricOf(consumer, 'processed_total', { result: 'done' })) === 2 &&
        (await metricOf(consumer, 'lag_known')) === 1,
      { message: 'everything to have been counted' },
    )
    // Paused, it takes over nothing of the one that is removed.
    consumer.pause()
    await leaveBehind(env.redis, 'things', [{ n: 4 }], { name: 'removed' })
    const looks = async () =>
      Number(/xinfo\|consumers:calls=(\d+)/.exec(await env.redis.info('commandstats'))?.[1] ?? 0)
    const seen = await looks()
    await until(async () => (await looks()) > seen + 1)
    await env.redis.xgroup('DELCONSUMER', 'things', GROUP, 'removed')
    await until(async () => (await metricOf(consumer, 'removed_pending_total')) === 1)
    const emitted = await emittedBy(consumer.registry)
    expect(emitted.get('outrider_consumer_lag')?.labels.get('group')).toEqual(new Set([GROUP]))
    expectAnswers(alerts, emitted, /^outrider_consumer_/)
    expectAnswers(panels, emitted, /^outrider_consumer_/)
  })
})
