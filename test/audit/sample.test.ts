import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { auditSample } from '../../src/audit/sample.js'
import { policyKey } from '../../src/event/names.js'
import { placePrefix, positionOf, requestedPosition } from '../../src/event/position.js'
import { connectPostgres } from '../../src/postgres/client/connect.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { Snapshot } from '../../src/postgres/state/snapshot.js'
import type { SampledRange } from '../../src/relay/self-audit/audit-sample.js'
import { entryOf, fieldsOf } from '../../testkit/entry.js'
import { until } from '../../testkit/services/index.js'
import { type AuditEnv, createAuditEnv } from './audit-env.js'

// One database, Redis and relay for all: each test has streams, and a minute, of its own.
let env: AuditEnv
let source: string

beforeAll(async () => {
  env = await createAuditEnv({ partitions: { shop: 3 } })
  source = (await currentLineage(env.postgres, env.slot))!.source
  await env.streamingRelay()
})
afterAll(() => env?.close())

/** Publishes events between two checkpoints. */
async function minuteOf(stream: string, count: number): Promise<{ ids: string[]; range: SampledRange }> {
  // Its first entry comes before both of them.
  await env.publish(stream, 1)
  const first = await checkpoint()
  const ids = await env.publish(stream, count)
  return { ids, range: between(first, await checkpoint()) }
}

/** Saves one, beside those that the relay saves; its snapshot. */
async function checkpoint(): Promise<string> {
  await env.checkpoint()
  return (await env.postgres.query('select snapshot::text from outrider.checkpoint order by lsn desc limit 1')).rows[0]
    .snapshot
}

const between = (after: string, before: string): SampledRange => ({
  ...{ after, before, from: String(new Snapshot(after).xmax), since: new Date() },
})

/** Audits a minute; undefined: one of those that are saved. */
async function round(range?: SampledRange) {
  const postgres = await connectPostgres({ url: env.database.url, connectTimeout: 5_000 }, 'sample')
  try {
    const { rows } = await postgres.query('select session::text from outrider.session order by number desc limit 1')
    const lineage = (await currentLineage(postgres, env.slot))!
    const { signal } = new AbortController()
    const { session } = rows[0]
    const report = await auditSample({ postgres, redis: env.redis, lineage, session, range, random: () => 0, signal })
    return report!
  } finally {
    await postgres.end()
  }
}

test('the rows of a minute that are in their streams are no finding, also of a partitioned stream', async () => {
  const first = await checkpoint()
  await env.postgres.query("select outrider.publish('shop', 't', subject => 's' || n) from generate_series(1, 20) as n")
  const lengths = async () => Promise.all(['shop:0', 'shop:1', 'shop:2'].map((key) => env.redis.xlen(key)))
  await until(async () => (await lengths()).reduce((sum, length) => sum + length, 0) === 20)
  expect(await round(between(first, await checkpoint()))).toMatchObject({ rows: 20, findings: [] })
})

test('an entry that was removed is missing, as long as its row is there', async () => {
  const { ids, range } = await minuteOf('removed', 5)
  await env.redis.xdel('removed', await env.entryOf('removed', ids[2]!))
  const finding = { kind: 'missing', stream: 'removed', id: ids[2] }
  expect(await round(range)).toEqual({ range, rows: 5, findings: [finding] })
  await env.postgres.query('delete from outrider.outbox where id = $1', [ids[2]])
  expect((await round(range)).findings).toEqual([])
})

test('an entry that was replaced is altered, and one beside a true one is not', async () => {
  const { ids, range } = await minuteOf('replaced', 4)
  for (const id of [ids[1]!, ids[2]!]) {
    const [[entry, fields]] = (await env.redis.xrange(
      'replaced',
      await env.entryOf('replaced', id),
      '+',
      'COUNT',
      1,
    )) as [[string, string[]]]
    if (id === ids[1]) await env.redis.xdel('replaced', entry)
    await env.redis.xadd('replaced', '*', ...Object.entries({ ...fieldsOf(fields), data: '{"n":7}' }).flat())
  }
  expect(await round(range)).toMatchObject({ rows: 4, findings: [{ kind: 'altered', stream: 'replaced', id: ids[1] }] })
})

test('an entry between two others whose row is gone is extra, unless another database publishes to the stream', async () => {
  const { ids, range } = await minuteOf('extra', 4)
  await env.postgres.query('delete from outrider.outbox where id = $1', [ids[1]])
  expect((await round(range)).findings).toEqual([{ kind: 'extra', stream: 'extra', id: ids[1] }])
  // Rows that are deleted from the oldest on leave entries before them.
  await env.postgres.query('delete from outrider.outbox where id = $1', [ids[0]])
  expect((await round(range)).findings).toEqual([])
  await env.postgres.query('delete from outrider.outbox where id = $1', [ids[2]])
  expect((await round(range)).findings).toEqual([])
  const others = await minuteOf('shared', 3)
  await env.postgres.query('delete from outrider.outbox where id = $1', [others.ids[1]])
  await env.redis.hset(policyKey('shared'), randomUUID(), '')
  expect((await round(others.range)).findings).toEqual([])
})

test('what was trimmed, rejected, put back or republished, and what is of another source, is no finding', async () => {
  const { ids, range } = await minuteOf('various', 6)
  const lineage = (await currentLineage(env.postgres, env.slot))!
  await env.redis.xdel('various', await env.entryOf('various', ids[5]!))
  await env.postgres.query(
    `insert into outrider.incident (lineage, kind, reason, stream, event_id, position) values ($1, 'rejected', 'test', 'various', $2, $3)`,
    [lineage.lineage, ids[5], positionOf(placePrefix(1, 8n), 0)],
  )
  // It comes again at the end, where a repair or a request puts it.
  const at = await env.entryOf('various', ids[4]!)
  const [[, fields]] = (await env.redis.xrange('various', at, at)) as [[string, string[]]]
  await env.redis.xdel('various', at)
  const again = { ...fieldsOf(fields), sequence: requestedPosition(placePrefix(1, 1n << 40n), 0) }
  await env.redis.xadd('various', '*', ...Object.entries(again).flat())
  const place = { id: randomUUID(), more: { sequence: requestedPosition(placePrefix(1, 1n << 40n), 1) } }
  await env.redis.xadd('various', '*', ...entryOf({}, { source, ...place }))
  await env.redis.xadd('various', '*', ...entryOf({}, { source: '/another' }))
  await env.redis.xtrim('various', 'MINID', await env.entryOf('various', ids[2]!))
  expect(await round(range)).toMatchObject({ rows: 6, findings: [] })
  await env.redis.xtrim('various', 'MAXLEN', 0)
  expect(await round(range)).toMatchObject({ rows: 6, findings: [] })
})
