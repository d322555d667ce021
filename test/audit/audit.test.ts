import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { audit } from '../../src/audit/audit.js'
import { OWN_OUTBOX } from '../../src/config/schema.js'
import { placePrefix, positionOf, requestedPosition } from '../../src/event/position.js'
import { connectPostgres } from '../../src/postgres/client/connect.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { entryOf } from '../../testkit/entry.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { until } from '../../testkit/services/index.js'
import { type AuditEnv, createAuditEnv, NOTHING_UNKNOWN } from './audit-env.js'

// One database, Redis and relay for all: each test has streams of its own.
let env: AuditEnv
let source: string
let relay: RelayProcess

beforeAll(async () => {
  env = await createAuditEnv({ partitions: { shop: 3 } })
  source = (await currentLineage(env.postgres, env.slot))!.source
  await env.postgres.query('select outrider.publish($1, $2)', ['early', 'test.happened'])
  relay = await env.streamingRelay()
  await until(async () => (await env.ids('early')).length === 1)
  await env.checkpoint()
})
afterAll(() => env?.close())

const counts = (missing: number, extra: number, altered: number) => ({ missing, extra, altered })

test('every kind of row that the relay publishes is found to be the same in its stream', async () => {
  const { rows } = await env.postgres.query(
    `insert into outrider.outbox (stream, type, subject, data, schema_version, correlation_id, causation_id, headers, created_at)
     values
       ('kinds', 'a', null, null, 1, null, null, '{}', default),
       ('kinds', 'b', 'é 😀', ('{"text": "' || repeat('é', 4000) || repeat('😀', 6000) || '"}')::json, 7, 'c', 'd', '{"zone":"x","abc":""}', default),
       ('kinds', 'c', 's', '{"a" :  1.50, "b":"\\u0041"}', 1, null, 'd', '{"traceparent":"00-é"}', '2001-02-03 04:05:06.1+00'),
       ('kinds', 'd', 's', to_json(repeat('x', 8190)), 1, null, null, '{}', '2001-02-03 04:05:06+00'),
       ('kinds', 'e', 's', to_json(repeat('x', 8191)), 1, null, null, '{}', default)
     returning id`,
  )
  await env.postgres.query(
    "select outrider.publish('shop', 't', subject => 'subject-' || n) from generate_series(1, 20) as n",
  )
  const lengths = async () => Promise.all(['kinds', 'shop:0', 'shop:1', 'shop:2'].map((key) => env.redis.xlen(key)))
  await until(async () => (await lengths()).reduce((sum, length) => sum + length, 0) === 25)
  await env.checkpoint()
  expect(rows).toHaveLength(5)
  const { code, report } = await env.audit({ stream: 'kinds' })
  expect([code, report]).toMatchObject([0, { rows: 5, entries: 5, streams: 1, counts: counts(0, 0, 0), repeated: 0 }])
  expect(await env.audit({ stream: 'shop' })).toMatchObject({
    code: 0,
    report: { rows: 20, entries: 20, streams: 3, counts: counts(0, 0, 0), notKnown: NOTHING_UNKNOWN },
  })
  expect(await env.auditText({ stream: 'kinds' })).toBe(
    'Compared 5 rows with 5 entries of 1 stream.\nNothing is missing, extra or altered.',
  )
  const one = await env.audit({ stream: 'shop:1' })
  expect(one.report).toMatchObject({ streams: 1, entries: await env.redis.xlen('shop:1'), counts: counts(0, 0, 0) })
})

test('an entry that was removed is missing', async () => {
  const [first, gone] = await env.publish('removed', 2)
  await env.checkpoint()
  const [lost, kept] = await env.publish('removed', 2)
  await env.checkpoint()
  await env.redis.xdel('removed', await env.entryOf('removed', lost!))
  const { code, report } = await env.audit({ stream: 'removed' })
  expect([code, report.counts]).toEqual([4, counts(1, 0, 0)])
  expect(report.findings).toMatchObject([{ kind: 'missing', stream: 'removed', id: lost }])
  expect(report.affected).toMatchObject([{ stream: 'removed', missing: 1, trimmed: 0, removed: 1 }])
  const text = await env.auditText({ stream: 'removed' })
  expect(text).toContain(`missing  removed  ${lost}`)
  expect(text).toContain('Entries of stream removed were removed with XDEL')
  expect([first, gone, kept]).not.toContain(lost)
})

test('a stream that was deleted lacks each of its rows', async () => {
  await env.publish('deleted', 3)
  await env.checkpoint()
  await env.redis.rename('deleted', 'elsewhere')
  const { code, report } = await env.audit({ stream: 'deleted', limit: '2' })
  await env.redis.rename('elsewhere', 'deleted')
  expect([code, report.counts, report.findings.length]).toEqual([4, counts(3, 0, 0), 2])
})

test('an entry of our source without a row is extra; one of another source is not ours to judge', async () => {
  await env.publish('forged', 2)
  await env.checkpoint()
  const id = randomUUID()
  const entry = await env.redis.xadd('forged', '*', ...entryOf({}, { id, source }))
  await env.redis.xadd('forged', '*', ...entryOf({}, { source: '/another' }))
  await env.redis.xadd('forged', '*', 'no', 'event')
  const { code, report } = await env.audit({ stream: 'forged' })
  expect([code, report.counts, report.otherSources]).toEqual([4, counts(0, 1, 0), 2])
  expect(report.findings).toEqual([{ kind: 'extra', stream: 'forged', id, entry }])
  // But where retention has emptied younger rows than that, it had one.
  await env.postgres.query(
    "insert into outrider.emptied select lineage, '0/1', pg_current_snapshot(), clock_timestamp() from outrider.lineage",
  )
  const { notKnown, counts: found } = (await env.audit({ stream: 'forged' })).report
  expect([notKnown.rowGone, found]).toEqual([1, counts(0, 0, 0)])
  await env.postgres.query('delete from outrider.emptied')
})

test('an event that a request has appended to the stream of another one is counted there, and no finding', async () => {
  await env.publish('replay', 1)
  await env.checkpoint()
  const sequence = requestedPosition(placePrefix(1, 0x1000n), 0)
  await env.redis.xadd('replay', '*', ...entryOf({}, { source, more: { sequence } }))
  const { code, report } = await env.audit({ stream: 'replay' })
  expect([code, report.notKnown]).toEqual([0, { ...NOTHING_UNKNOWN, republished: 1 }])
  const forged = positionOf(placePrefix(1, 0x1000n), 0)
  await env.redis.xadd('replay', '*', ...entryOf({}, { source, more: { sequence: forged } }))
  expect((await env.audit({ stream: 'replay' })).report.counts).toEqual(counts(0, 1, 0))
})

test('an event in the stream of another one is extra there', async () => {
  const [id] = await env.publish('right', 1)
  await env.publish('wrong', 1)
  const [, fields] = (await env.redis.xrange('right', '-', '+'))[0]!
  await env.checkpoint()
  await env.redis.xadd('wrong', '*', ...fields)
  expect((await env.audit({ stream: 'wrong' })).report).toMatchObject({
    counts: counts(0, 1, 0),
    findings: [{ stream: 'wrong', id }],
  })
  expect((await env.audit({ stream: 'right' })).code).toBe(0)
})

test('what differs between row and entry is named', async () => {
  const [one, other, same] = await env.publish('altered', 3)
  await env.checkpoint()
  await env.postgres.query(`update outrider.outbox set data = '{"n":9}', subject = 'new' where id = $1`, [one])
  await env.postgres.query(`update outrider.outbox set headers = '{"extra":"x"}', created_at = now() where id = $1`, [
    other,
  ])
  const { code, report } = await env.audit({ stream: 'altered' })
  expect([code, report.counts]).toEqual([4, counts(0, 0, 2)])
  expect(report.findings).toMatchObject([
    { kind: 'altered', id: one, entry: await env.entryOf('altered', one!), fields: ['data', 'subject'] },
    { kind: 'altered', id: other, fields: ['extra', 'time'] },
  ])
  expect(await env.auditText({ stream: 'altered' })).toContain('data, subject')
  expect([one, other]).not.toContain(same)
})

test('a second copy of an event is counted, and an altered copy is found next to the true one', async () => {
  await env.publish('copies', 2)
  await env.checkpoint()
  const [[, fields], [, others]] = (await env.redis.xrange('copies', '-', '+')) as [
    [string, string[]],
    [string, string[]],
  ]
  await env.redis.xadd('copies', '*', ...fields)
  const sound = await env.audit({ stream: 'copies' })
  expect([sound.code, sound.report.counts, sound.report.repeated]).toEqual([0, counts(0, 0, 0), 1])
  const entry = await env.redis.xadd('copies', '*', ...others.map((field) => (field === '{"n":1}' ? '{"n":2}' : field)))
  const { code, report } = await env.audit({ stream: 'copies' })
  expect([code, report.counts]).toEqual([4, counts(0, 0, 1)])
  expect(report.findings).toMatchObject([{ kind: 'altered', entry, fields: ['data'] }])
})

test('rows of a trimmed stream are not called missing, those behind its first entry are', async () => {
  await env.publish('trimmed', 3)
  await env.checkpoint()
  const [first] = await env.publish('trimmed', 1)
  await env.checkpoint()
  const [lost] = await env.publish('trimmed', 2)
  await env.checkpoint()
  await env.redis.xtrim('trimmed', 'MINID', await env.entryOf('trimmed', first!))
  const trimmed = await env.audit({ stream: 'trimmed' })
  expect(trimmed).toMatchObject({
    code: 0,
    report: { counts: counts(0, 0, 0), notKnown: { ...NOTHING_UNKNOWN, trimmed: 3 }, missingAmongTrimmed: 0 },
  })
  expect(await env.auditText({ stream: 'trimmed' })).toContain(
    '3  rows without an entry whose stream was trimmed: trimmed',
  )
  await env.redis.xdel('trimmed', await env.entryOf('trimmed', lost!))
  const { report } = await env.audit({ stream: 'trimmed' })
  expect([report.counts, report.notKnown.trimmed]).toEqual([counts(1, 0, 0), 3])
  expect(report.findings).toMatchObject([{ kind: 'missing', id: lost }])
})

test('a stream that lacks more rows than were trimmed has lost some', async () => {
  await env.publish('short', 4)
  await env.checkpoint()
  await env.publish('short', 1)
  await env.checkpoint()
  await env.redis.xtrim('short', 'MAXLEN', 1)
  // As if two of the four had never been added.
  const { last } = Object.fromEntries((await env.redis.xrange('short', '-', '+')).map(([entry]) => ['last', entry]))
  await env.redis.call('XSETID', 'short', last as string, 'ENTRIESADDED', '3', 'MAXDELETEDID', '0-0')
  const { code, report } = await env.audit({ stream: 'short' })
  expect([code, report.counts, report.notKnown.trimmed, report.missingAmongTrimmed]).toEqual([4, counts(0, 0, 0), 4, 2])
  expect(await env.auditText({ stream: 'short' })).toContain('2 more are missing at least')
})

test("rows from before the lineage's first checkpoint are not called missing", async () => {
  const entry = (await env.redis.xrange('early', '-', '+'))[0]![0]
  await env.redis.xadd('early', '*', 'no', 'event')
  await env.redis.xdel('early', entry)
  const { code, report } = await env.audit({ stream: 'early' })
  expect([code, report.notKnown]).toEqual([0, { ...NOTHING_UNKNOWN, before: 1 }])
})

test('a row that was rejected is explained by its incident', async () => {
  await env.redis.set('blocked-by-key', 'not a stream')
  const id = await env.insert('blocked-by-key')
  await until(
    async () => (await env.postgres.query('select from outrider.rejected where event_id = $1', [id])).rowCount,
  )
  await env.checkpoint()
  await env.redis.del('blocked-by-key')
  const { code, report } = await env.audit({ stream: 'blocked-by-key' })
  expect([code, report.counts, report.rejected]).toEqual([0, counts(0, 0, 0), 1])
})

test('rows of a partition that received them while it was detached, or unlogged, are missing', async () => {
  await env.publish('aside', 1)
  const { rows } = await env.postgres.query<{ n: number }>(
    'select (select bucket from outrider.outbox order by txid desc limit 1)::int as n',
  )
  const unused = (rows[0]!.n + 4) % 8
  const insert = (table: string) =>
    env.postgres.query(
      `insert into outrider.${table} (stream, type, bucket, seq) values ('aside', 'unseen', $1, 1) returning id`,
      [unused],
    )
  await env.postgres.query(`alter table outrider.outbox detach partition outrider.outbox_${unused}`)
  const detached = (await insert(`outbox_${unused}`)).rows[0].id
  await env.postgres.query(
    `alter table outrider.outbox attach partition outrider.outbox_${unused} for values in (${unused})`,
  )
  // In one transaction: a relay halts where it sees an unlogged partition.
  await env.postgres.query(`begin; alter table outrider.outbox_${unused} set unlogged`)
  const unlogged = (await insert('outbox')).rows[0].id
  await env.postgres.query(`alter table outrider.outbox_${unused} set logged; commit`)
  await env.publish('aside', 1)
  await env.checkpoint()
  const { code, report } = await env.audit({ stream: 'aside' })
  expect([code, report.counts]).toEqual([4, counts(2, 0, 0)])
  expect(report.findings.map(({ id }) => id).sort()).toEqual([detached, unlogged].sort())
})

test('a row with the transaction id of another server is told apart', async () => {
  await env.publish('copied', 1)
  await env.checkpoint()
  await env.postgres.query('alter table outrider.outbox disable trigger all')
  const [id] = await env.publish('copied', 1)
  await env.postgres.query("update outrider.outbox set txid = '9000000000000000' where id = $1", [id])
  await env.redis.xdel('copied', await env.entryOf('copied', id!))
  const { code, report } = await env.audit({ stream: 'copied' })
  expect([code, report.notKnown]).toEqual([0, { ...NOTHING_UNKNOWN, alien: 1 }])
})

test('--since leaves out what was committed before it, and finds what came later', async () => {
  const [old] = await env.publish('later', 2)
  await env.checkpoint()
  await until(async () => (await env.postgres.query('select from outrider.checkpoint where taken_at < now()')).rowCount)
  const since = new Date((await env.postgres.query('select clock_timestamp() as now')).rows[0].now.getTime() + 1)
  await until(async () => (await env.postgres.query('select clock_timestamp() > $1 as past', [since])).rows[0].past)
  const [young] = await env.publish('later', 2)
  await env.checkpoint()
  for (const id of [old, young]) await env.redis.xdel('later', await env.entryOf('later', id!))
  // Entries that were removed are the last ones: nothing was trimmed as far as the stream tells.
  const { code, report } = await env.audit({ stream: 'later', since: since.toISOString() })
  expect([code, report.rows, report.notKnown.trimmed]).toEqual([4, 2, 0])
  expect(report.findings).toMatchObject([{ kind: 'missing', id: young }])
  const whole = await env.audit({ stream: 'later', since: '1h' })
  expect(whole.report.rows).toBeGreaterThanOrEqual(4)
})

test('with little memory it reads several times, and finds the same', async () => {
  await env.publish('often', 1)
  await env.checkpoint()
  const ids = await env.publish('often', 60)
  await env.checkpoint()
  const [forged, altered] = [randomUUID(), ids[9]!]
  await env.redis.xadd('often', '*', ...entryOf({}, { id: forged, source }))
  for (const id of ids.slice(20, 50)) await env.redis.xdel('often', await env.entryOf('often', id))
  await env.postgres.query("update outrider.outbox set data = 'true' where id = $1", [altered])
  const whole = await env.audit({ stream: 'often' })
  expect([whole.report.passes, whole.report.counts]).toEqual([1, counts(30, 1, 1)])
  const postgres = await connectPostgres({ url: env.database.url, connectTimeout: 5_000 }, 'audit')
  const lineage = (await currentLineage(postgres, env.slot))!
  const options = { postgres, redis: env.redis, lineage, mapping: OWN_OUTBOX, stream: 'often', wait: 0, limit: 100 }
  const { passes, counts: found, findings, rows, entries } = await audit({ ...options, maxUnmatched: 10 })
  await postgres.end()
  expect(passes).toBeGreaterThan(3)
  expect([found, rows, entries]).toEqual([whole.report.counts, whole.report.rows, whole.report.entries])
  const names = (list: readonly { kind: string; id: string }[]) => list.map(({ kind, id }) => `${kind} ${id}`).sort()
  expect(names(findings)).toEqual(names(whole.report.findings))
})

// From here on without the relay of the tests above.

test('rows that are not confirmed yet are no finding', async () => {
  await env.publish('waiting', 1)
  await env.checkpoint()
  await relay.kill()
  await env.insert('waiting')
  const { code, report } = await env.audit({ stream: 'waiting' })
  expect([code, report.confirmed, report.notKnown]).toEqual([0, false, { ...NOTHING_UNKNOWN, unconfirmed: 1 }])
  expect(await env.auditText({ stream: 'waiting' })).toContain(
    '1  rows without an entry that are not confirmed yet; the relay did not confirm them within --wait',
  )
})

test('rows that were inserted while the publication left them out are missing, those behind are published', async () => {
  await env.postgres.query("alter publication outrider set table outrider.outbox where (stream <> 'unseen')")
  const unseen = await env.insert('unseen')
  await env.postgres.query('alter publication outrider set table outrider.outbox')
  // As closing the gap does, which a running relay opens.
  await env.postgres.query("update outrider.lineage set publication_state = outrider.publication_state('outrider')")
  relay = await env.streamingRelay()
  await env.publish('unseen', 1)
  await relay.kill()
  // A stream that the lineage has never published to is looked at, too.
  const never = await env.insert('never')
  await env.checkpoint()
  const { code, report } = await env.audit({ stream: 'unseen' })
  expect([code, report.counts]).toEqual([4, counts(1, 0, 0)])
  expect(report.findings).toMatchObject([{ kind: 'missing', stream: 'unseen', id: unseen }])
  const { findings } = (await env.audit()).report
  expect(findings.map(({ id }) => id)).toEqual(expect.arrayContaining([unseen, never]))
})

test('entries whose rows were all deleted are no finding', async () => {
  await env.postgres.query('truncate outrider.outbox')
  const { code, report } = await env.audit({ stream: 'kinds' })
  expect([code, report.notKnown]).toEqual([0, { ...NOTHING_UNKNOWN, rowGone: 5 }])
})
