import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { incidents } from '../../src/cli/incidents.js'
import { setup } from '../../src/cli/setup.js'
import { OWN_OUTBOX } from '../../src/config/schema.js'
import { recordLostStreams } from '../../src/postgres/state/gaps.js'
import type { NewIncident } from '../../src/postgres/state/incident.js'
import type { IncidentCause } from '../../src/postgres/state/incident-reasons.js'
import { getIncident, listIncidents, openIncident, openIncidents } from '../../src/postgres/state/incidents.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { countLost } from '../../src/postgres/state/loss-estimate.js'
import { verifyPublication } from '../../src/relay/identity.js'
import type { Database } from '../../testkit/services/index.js'
import { type CommandRun, runCommand } from '../support/command.js'
import { holdLock } from '../support/lock-holder.js'
import { createMigratedDatabase } from '../support/migrated-database.js'

let database: Database
let client: pg.Client
let slot: string
let lineage: string

beforeEach(async () => {
  database = await createMigratedDatabase('outbox')
  client = await database.connect()
  slot = `outrider_${database.name}`
  await runCommand(setup, database.url)
  lineage = (await currentLineage(client, slot))!.lineage
})

afterEach(async () => {
  await client.end()
  await database.drop()
})

const run = (args: string[], options?: CommandRun) => runCommand(incidents, database.url, { args, ...options })
const open = (incident: IncidentCause & Omit<NewIncident, 'lineage' | 'kind' | 'reason'>) =>
  openIncident(client, { lineage, ...incident })
const stored = async (id: string) =>
  (await client.query('select closed_at, closed_by, resolution from outrider.incident where id = $1', [id])).rows[0]

describe('opening', () => {
  test('the same gap twice is one incident, until it is closed', async () => {
    const gap = { kind: 'gap', reason: 'stream_behind', stream: 'orders' } as const
    const id = await open(gap)
    expect(await open(gap)).toBe(id)
    expect(await open({ ...gap, stream: 'mails' })).not.toBe(id)
    await run(['close', id], { answer: true })
    expect(await open(gap)).not.toBe(id)
  })

  test('one without a stream is told apart, too', async () => {
    const id = await open({ kind: 'foreign', reason: 'system_id' })
    expect(await open({ kind: 'foreign', reason: 'system_id' })).toBe(id)
    expect(await open({ kind: 'foreign', reason: 'timeline' })).not.toBe(id)
  })

  test('two sessions at once open one', async () => {
    const other = await database.connect()
    const gap = { lineage, kind: 'gap', reason: 'slot_lost' } as const
    const ids = await Promise.all([openIncident(client, gap), openIncident(other, gap)])
    expect(new Set(ids).size).toBe(1)
    await other.end()
  })

  test('a rejected row is one incident, also when it is replayed after closing', async () => {
    const rejected = { kind: 'rejected', reason: 'too_large', position: '00000001-0000000000000001-00000000' } as const
    const id = await open(rejected)
    await run(['close', id], { answer: true })
    expect(await open(rejected)).toBe(id)
    await openIncidents(client, lineage, 'rejected', [
      rejected,
      { ...rejected, position: 'q' },
      { ...rejected, position: 'q' },
    ])
    expect(await listIncidents(client, { closed: true })).toHaveLength(2)
  })

  test('a row is kept to the letter', async () => {
    const row = { id: 'e', data: '{"a": "\\u0000 é"}', headers: null, subject: 'x\n"' }
    await openIncidents(client, lineage, 'rejected', [
      { reason: 'bad_header', position: 'p', stream: 'orders', eventId: 'e', detail: { limit: 1 }, row },
    ])
    expect((await client.query('select * from outrider.rejected')).rows).toMatchObject([
      { lineage, reason: 'bad_header', stream: 'orders', event_id: 'e', position: 'p', detail: { limit: 1 }, row },
    ])
    await openIncidents(client, lineage, 'rejected', [])
  })
})

describe('list and show', () => {
  test('no incident: exit code 0', async () => {
    expect(await run([])).toEqual({ code: 0, text: 'No open incident.' })
  })

  test('open ones: exit code 4, newest first', async () => {
    await open({ kind: 'gap', reason: 'stream_behind', stream: 'orders' })
    await open({ kind: 'rejected', reason: 'too_large', position: 'p', row: { id: 'e' } })
    const { code, text } = await run(['list'])
    expect(code).toBe(4)
    const lines = text.split('\n')
    expect(lines.slice(0, 3).map((line) => line.split(/ {2,}/).slice(0, 5))).toEqual([
      ['id', 'state', 'kind', 'reason', 'stream'],
      ['2', 'open', 'rejected', 'too_large', expect.stringMatching(/Z$/)],
      ['1', 'open', 'gap', 'stream_behind', 'orders'],
    ])
    expect(lines.slice(3)).toEqual([
      expect.stringMatching(
        /^stream_behind: Redis has lost events .* until it is repaired or closed\. Next: `outrider incidents show 1`\.$/,
      ),
      expect.stringMatching(/^too_large: A row of the outbox cannot be published.* `outrider incidents show 2`\.$/),
    ])
    expect(JSON.parse((await run([], { json: true })).text)).toMatchObject([
      { id: '2', hasRow: true },
      { id: '1', hasRow: false },
    ])
  })

  test('closed ones with --all only', async () => {
    await run(['close', await open({ kind: 'operator', reason: 'replay' })], { answer: true })
    expect((await run(['list'])).code).toBe(0)
    const { code, text } = await run(['list'], { flags: { all: true } })
    expect(code).toBe(0)
    expect(text).toMatch(/\n1 +closed +operator +replay/)
  })

  test('show says in sentences what it is and what leads on, then prints each fact on a line', async () => {
    const id = await open({
      kind: 'rejected',
      reason: 'bad_header',
      position: 'p',
      stream: 's',
      eventId: 'e',
      detail: { found: { header: 'x-a', place: 2 }, names: ['x', 'y'], omitted: null },
      row: { a: 'b' },
    })
    const { text } = await run(['show', id])
    const lines = text.split('\n').map((line) => line.split(/ {2,}/))
    expect(lines).toEqual([
      ['incident', `${id}: rejected, bad_header`],
      ['found', 'A row of the outbox cannot be published: bad_header.'],
      ['means', 'That row is not in its stream. All others are published.'],
      ['next', `\`outrider incidents close ${id}\`: takes it off the list.`],
      ['opened', expect.stringMatching(/Z$/)],
      ['lineage', lineage],
      ['stream', 's'],
      ['event', 'e'],
      ['position', 'p'],
      ['detail.found.place', '2'],
      ['detail.found.header', 'x-a'],
      ['detail.names', 'x, y'],
      ['row.a', 'b'],
    ])
  })

  test('show escapes what producers wrote, so that it cannot look like another line', async () => {
    const row = { id: 'e', subject: 'a\nincident  1: closed\u001b[2K', partitions: [{ partition: 'p' }] }
    const id = await open({ kind: 'rejected', reason: 'bad_header', position: 'p', stream: 's', row })
    const { text } = await run(['show', id])
    expect(text).toContain('a\\u000aincident  1: closed\\u001b[2K')
    expect(text.split('\n').at(-1)).toMatch(/^row\.partitions\.0\.partition +p$/)
    expect((await run(['show', await open({ kind: 'foreign', reason: 'system_id' })])).text).not.toContain('row')
  })

  test.each([
    [['show']],
    [['show', 'x']],
    [['show', '1', '2']],
    [['close']],
    [['retry', '1']],
    [['repair']],
    [['repair', '1', '2']],
    [['list', '1']],
  ])('%j is wrong usage', async (args) => {
    await expect(run(args)).rejects.toMatchObject({ name: 'OutriderError', exitCode: 2 })
  })

  test.each([
    [['close', '1'], { all: true }],
    [['close', '1'], { reason: 'stream_behind' }],
    [['close'], { all: true, reason: 'stream_behind' }],
    [['list'], { reason: 'stream_behind' }],
    [['show', '1'], { all: true }],
  ])('%j with %j is wrong usage', async (args, flags) => {
    await expect(run(args, { flags })).rejects.toMatchObject({ name: 'OutriderError', exitCode: 2 })
  })

  test.each([['show'], ['close']])('%s of one that is not there fails', async (action) => {
    await expect(run([action, '77'])).rejects.toThrow('Found no incident 77.')
  })

  test('with the schema of an earlier version it says what to do', async () => {
    await client.query('alter table outrider.incident drop column repaired_at')
    await expect(run([])).rejects.toThrow('`outrider setup` creates or completes it')
  })

  test('without a schema it says what to do', async () => {
    await client.query('drop schema outrider cascade')
    await expect(run([])).rejects.toThrow('`outrider setup` creates or completes it')
  })
})

/** The streams of a gap as the relay records them. */
const lose = async (...keys: string[]) =>
  recordLostStreams(
    client,
    { lineage, walsender: await holdLock(client) },
    keys.map((key) => ({ key, snapshot: null, since: null, head: null, detail: { message: 'its stream is gone' } })),
  )

const startSession = async () =>
  (
    await client.query<{ session: string }>(
      `insert into outrider.session (session, lineage, hostname, pid, version, timeline)
       values (gen_random_uuid(), $1, 'h', 1, '1', 1) returning session`,
      [lineage],
    )
  ).rows[0]!.session

const saveHeads = async (...keys: string[]) =>
  client.query(
    `insert into outrider.head (lineage, stream_key, position, event_id, entry_id, session)
     select $1, key, 'p', 'e', '1-1', $3 from unnest($2::text[]) as key`,
    [lineage, keys, await startSession()],
  )

/** Streams whose saved head says what Redis must have: where a loss was accepted, it does not. */
const savedHeads = async () =>
  (await client.query("select stream_key as key from outrider.head where entry_id <> '0-0' order by 1")).rows.map(
    ({ key }) => key,
  )

/** A repair as the relay records it: `unsettled` transactions were open. */
const startRepair = async (
  repair: { found?: number; putBack?: number; secondsAgo?: number; unsettled?: string[] } = {},
) =>
  client.query(
    `insert into outrider.repair (lineage, session, timeline, snapshot, until_lsn, unsettled, every_stream, found, put_back, began_at)
     select $1, $2, 1, pg_current_snapshot(), pg_current_wal_lsn(), $3::text[]::xid8[], false, $4, $5,
       clock_timestamp() - make_interval(secs => $6)`,
    [
      ...[lineage, await startSession(), repair.unsettled ?? [], repair.found ?? null, repair.putBack ?? 0],
      repair.secondsAgo ?? 0,
    ],
  )

const repairs = async () => (await client.query('select from outrider.repair')).rowCount
const settle = (id: string) =>
  client.query('update outrider.incident set repaired_at = clock_timestamp() where id = $1', [id])
const openedSecondsAgo = (id: string, seconds: number) =>
  client.query('update outrider.incident set opened_at = opened_at - make_interval(secs => $2) where id = $1', [
    id,
    seconds,
  ])
/** The words behind the name of a line of `show`. */
const shown = async (id: string, name: string, options?: CommandRun) =>
  new RegExp(`^${name} +(.*)$`, 'm').exec((await run(['show', id], options)).text)?.[1]

describe('a gap of many streams', () => {
  const keys = Array.from({ length: 42 }, (_, n) => `s${String(n).padStart(2, '0')}`)

  test('is one incident; list names the first of them, show names twenty and the number', async () => {
    const id = await lose(...keys)
    expect((await run(['list'])).text).toMatch(/\n1 +open +gap +stream_behind +s00 and 41 more +2/)
    const { text } = await run(['show', id])
    expect(text).toMatch(/^streams +42$/m)
    expect(text.match(/^stream +s\d\d: its stream is gone$/gm)).toHaveLength(20)
    expect(text).toMatch(/^stream +… and 22 more$/m)
    expect(JSON.parse((await run(['show', id], { json: true })).text).streams).toEqual({
      count: 42,
      first: keys.slice(0, 20).map((key) => ({ key, detail: { message: 'its stream is gone' } })),
    })
    expect(JSON.parse((await run([], { json: true })).text)).toMatchObject([{ streams: { count: 42 } }])
  })

  test('one that an earlier version opened for its stream names that stream', async () => {
    await open({ kind: 'gap', reason: 'stream_behind', stream: 'orders', detail: { events: 3 } })
    expect(await listIncidents(client)).toMatchObject([
      { stream: 'orders', streams: { count: 1, first: [{ key: 'orders', detail: { events: 3 } }] } },
    ])
  })

  test('list names the newest incident first, also from the tenth on', async () => {
    for (let n = 1; n <= 11; n++) await open({ kind: 'operator', reason: 'replay', stream: `s${n}` })
    expect((await listIncidents(client)).map(({ id }) => Number(id))).toEqual([11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1])
  })

  test('says of each stream how many events are lost at most, unless they were put back', async () => {
    await client.query(
      `insert into outrider.outbox (id, stream, type)
       select ('019ac0ff-0000-7000-8000-00000000000' || n)::uuid, case when n < 5 then 'a' when n = 5 then 'b' else 'c' end, 't' from generate_series(1, 6) as n
       order by n`,
    )
    const event = (n: number) => ({ event: `019ac0ff-0000-7000-8000-00000000000${n}` })
    const at = '2026-01-01T00:00:00.000Z'
    const stream = (key: string, detail: object) => ({
      key,
      snapshot: null,
      since: null,
      head: null,
      detail: { until: at, ...detail },
    })
    const id = await recordLostStreams(client, { lineage, walsender: await holdLock(client) }, [
      stream('a', { expected: event(4), found: event(1), after: at }),
      stream('b', { expected: event(5), found: event(0), after: null }),
      stream('c', { expected: event(6), found: event(0), after: null, events: null }),
    ])
    const current = (await currentLineage(client, slot))!
    const events = async () =>
      (await getIncident(client, id))!.streams.first.map(({ detail }) => Reflect.get(detail, 'events'))
    await settle(id)
    await countLost(client, current)
    expect(await events()).toEqual([undefined, undefined, null])
    await client.query('update outrider.incident set repaired_at = null')
    await countLost(client, current)
    expect(await events()).toEqual([3, 1, null])
    expect(await shown(id, 'stream')).toBe(`a: at most 3 events, appended after ${at} and until ${at}`)
  })
})

describe('repair', () => {
  const halt = { config: { onGap: 'halt' } } as const
  const repairMax = async (id: string) => (await getIncident(client, id))?.repairMax

  test('under onGap: repair nothing has to be done, and under halt it is the first command', async () => {
    const id = await lose('orders')
    expect(await shown(id, 'next')).toBe(
      `The relay puts back from the table what is missing, by itself. Or \`outrider incidents close ${id}\`: accepts the loss.`,
    )
    expect(await shown(id, 'next', halt)).toBe(
      `\`outrider incidents repair ${id}\`: has the relay put back from the table what is missing. Or \`outrider incidents close ${id}\`: accepts the loss.`,
    )
    expect(await shown(id, 'means', halt)).toBe('Nothing newer is published until it is repaired or closed.')
  })

  test('asks the relay for at most --max events, 10,000,000 by default', async () => {
    const id = await lose('orders')
    expect(await run(['repair', id], halt)).toMatchObject({
      code: 0,
      text: expect.stringContaining('at most 10,000,000 events'),
    })
    expect(await repairMax(id)).toBe(10_000_000)
    expect(await shown(id, 'next', halt)).toMatch(/^The relay puts back .* by itself/)
    await run(['repair', id], { ...halt, flags: { max: '20000000' } })
    expect(await repairMax(id)).toBe(20_000_000)
    expect(await shown(id, 'permitted')).toBe('a repair of at most 20,000,000 events')
    expect(JSON.parse((await run(['repair', id], { json: true })).text)).toMatchObject({ id, repairMax: 10_000_000 })
  })

  test.each(['0', '-1', '1e6', 'many'])('--max %s is wrong usage', async (max) => {
    await expect(run(['repair', '1'], { flags: { max } })).rejects.toMatchObject({ name: 'OutriderError', exitCode: 2 })
  })

  test('refuses what is no gap, or a gap that only a person can correct, and names what leads on', async () => {
    const foreign = await open({ kind: 'foreign', reason: 'system_id' })
    await expect(run(['repair', foreign])).rejects.toThrow(/is no gap.*To continue: `outrider adopt`/)
    const renamed = await open({ kind: 'gap', reason: 'outbox_renamed' })
    await expect(run(['repair', renamed])).rejects.toThrow(
      `only a person can correct its cause. To continue: \`outrider incidents close ${renamed}\``,
    )
    expect(await repairMax(renamed)).toBeNull()
    await expect(run(['repair', '77'])).rejects.toThrow('Found no incident 77.')
  })

  test('refuses one of a mapped table, one that was closed, and one that is repaired already', async () => {
    const id = await lose('orders')
    await client.query("update outrider.lineage set outbox_table = 'shop.events'")
    await expect(run(['repair', id])).rejects.toThrow(
      /its outbox is shop\.events.*`outrider audit`.*`outrider incidents close 1`/,
    )
    await client.query("update outrider.lineage set outbox_table = 'outrider.outbox'")
    await settle(id)
    await expect(run(['repair', id])).rejects.toThrow(/was repaired at .* Nothing is held up meanwhile\./)
    await run(['close', id], { answer: true })
    await expect(run(['repair', id])).rejects.toThrow(`Incident ${id} was closed at`)
    expect(await repairMax(id)).toBeNull()
  })

  test('of a mapped table is not promised', async () => {
    const id = await lose('orders')
    const outbox = { ...OWN_OUTBOX, table: 'shop.events' }
    expect(await shown(id, 'next', { config: { outbox } })).toBe(
      `\`outrider incidents close ${id}\`: accepts the loss.`,
    )
  })

  test('that is under way shows what was found, put back and remains, the rate and the time left', async () => {
    const id = await lose('orders')
    await openedSecondsAgo(id, 60)
    await startRepair({ secondsAgo: 10 })
    expect(await shown(id, 'next')).toMatch(
      /^The relay compares the table with the streams, to find what is missing\. Or /,
    )
    await client.query('update outrider.repair set found = 6000, put_back = 1000')
    expect(await shown(id, 'next')).toMatch(
      /^The relay puts back what is missing: 1,000 of 6,000 events, 5,000 remaining, \d+\/s, about \d+ (s|min) left\. Or `outrider incidents close 1`/,
    )
    expect((await run([])).text).toMatch(/\n1 +repairing +gap/)
    expect((await run([])).code).toBe(4)
    expect(JSON.parse((await run(['show', id], { json: true })).text)).toMatchObject({
      repair: { is: 'running', progress: { found: 6000, putBack: 1000, perSecond: expect.any(Number) } },
      ...{ next: [], otherwise: [`outrider incidents close ${id}`] },
    })
  })

  test('that is halted says why and what to do, also while it is counted as begun, until a person asks for it', async () => {
    const [id, other] = [await lose('orders'), await open({ kind: 'gap', reason: 'slot_ahead' })]
    await openedSecondsAgo(id, 60)
    await startRepair({ found: 12_000_000 })
    const halt = {
      reason: 'repair_too_large',
      message: `Expected at most 10000000. To put them back: \`outrider incidents repair ${id} --max 12000000\`.`,
      commands: [`outrider incidents repair ${id} --max 12000000`],
    }
    await client.query('update outrider.incident set repair_halt = $1', [JSON.stringify(halt)])
    expect(await shown(id, 'next')).toBe(
      `The relay has halted its repair (repair_too_large): ${halt.message} Or \`outrider incidents close ${id}\`: accepts the loss.`,
    )
    expect(await shown(id, 'means')).toBe('Nothing newer is published until it is repaired or closed.')
    const { text, code } = await run([])
    expect([code, text]).toEqual([4, expect.stringMatching(/\n1 +blocked +gap/)])
    expect(text).toContain(`halted its repair (repair_too_large): ${halt.message} Next: \`outrider incidents show`)
    const { repair, next } = JSON.parse((await run(['show', id], { json: true })).text)
    expect([repair, next]).toEqual([{ is: 'blocked', halt }, halt.commands])

    const [, ...args] = next[0].split(' ').slice(1)
    await run(args.slice(0, 2), { flags: { max: args[3] } })
    expect(await shown(id, 'next')).toMatch(/^The relay puts back what is missing: 0 of 12,000,000 events/)
    expect(await shown(other, 'next')).toMatch(/^The relay puts back what is missing: 0 of/)
  })

  test('that is halted for the reason of its gap keeps the steps of that gap', async () => {
    const id = await open({ kind: 'gap', reason: 'publication_missing' })
    const behind = await lose('orders')
    const halt = { reason: 'publication_missing', message: '`outrider setup` creates it again.', commands: [] }
    await client.query('update outrider.incident set repair_halt = $1', [JSON.stringify(halt)])
    expect(JSON.parse((await run(['show', id], { json: true })).text).next).toEqual(['outrider setup'])
    expect(JSON.parse((await run(['show', behind], { json: true })).text).next).toEqual([])
    expect(await shown(behind, 'next')).toContain('`outrider setup` creates it again.')
  })

  test('that was halted says so no longer where a person has to ask for it', async () => {
    const id = await lose('orders')
    await client.query(
      `update outrider.incident set repair_halt = '{"reason": "other_redis", "message": "m", "commands": []}'`,
    )
    expect(await shown(id, 'next', halt)).toMatch(/^`outrider incidents repair 1`: has the relay put back/)
  })

  test('that belongs to an earlier gap is not taken for one of a later gap', async () => {
    await startRepair({ found: 5, putBack: 5, secondsAgo: 60 })
    expect(await shown(await lose('orders'), 'next')).toMatch(/^The relay puts back .* by itself/)
  })

  test('that waits for transactions counts them, and is no open incident for the exit code', async () => {
    const id = await lose('orders')
    await startRepair({ found: 7, putBack: 7, unsettled: ['3', '4'] })
    await settle(id)
    expect(await shown(id, 'next')).toBe(
      '7 events put back. It is closed when 2 transactions that were open then have ended.',
    )
    expect(await shown(id, 'means')).toBe('Publishing continues: nothing is held up.')
    expect(await run(['list'])).toMatchObject({ code: 0, text: expect.stringMatching(/\n1 +settling +gap/) })
    await client.query("update outrider.repair set unsettled = '{}'")
    expect(await shown(id, 'next')).toBe('7 events put back. It is closed within seconds.')
    await client.query(
      "update outrider.incident set closed_at = clock_timestamp(), closed_by = 'relay', resolution = 'repaired: 7 events put back'",
    )
    expect(await shown(id, 'closed')).toMatch(/ by relay: repaired: 7 events put back$/)
    expect(await shown(id, 'next')).toBeUndefined()
  })
})

describe('close', () => {
  test('of a gap accepts whatever Redis has of all its streams, and ends its repair', async () => {
    await saveHeads('a', 'b', 'other')
    const id = await lose('a', 'b')
    await startRepair()
    expect((await run(['close', id], { answer: true })).code).toBe(0)
    expect(await savedHeads()).toEqual(['other'])
    expect(await repairs()).toBe(0)
  })

  test('of a gap that is repaired awaits no transactions, and keeps what the repair has saved', async () => {
    await saveHeads('a')
    const id = await lose('a')
    await startRepair({ unsettled: ['3'] })
    await settle(id)
    const before = (await currentLineage(client, slot))!
    await run(['close', id], { answer: true })
    expect([await savedHeads(), await repairs(), (await currentLineage(client, slot))!]).toEqual([['a'], 0, before])
  })

  test.each(['slot_missing', 'publication_missing'] as const)(
    'of %s that is repaired asks nothing of slot and publication',
    async (reason) => {
      const id = await open({ kind: 'gap', reason })
      await settle(id)
      await client.query('drop publication outrider; select pg_drop_replication_slot(slot) from outrider.lineage')
      expect((await run(['close', id], { answer: true })).code).toBe(0)
    },
  )

  test('of one of two gaps leaves the repair to the other; of the last that can be repaired it ends it', async () => {
    const [behind, ahead] = [await lose('a'), await open({ kind: 'gap', reason: 'slot_ahead' })]
    await open({ kind: 'gap', reason: 'outbox_renamed' })
    await startRepair()
    await run(['close', behind], { answer: true })
    expect(await repairs()).toBe(1)
    await run(['close', ahead], { answer: true })
    expect(await repairs()).toBe(0)
  })

  test('asks, and notes who and why', async () => {
    const { user } = (await client.query('select current_user as user')).rows[0]
    const id = await open({ kind: 'operator', reason: 'replay' })
    expect((await run(['close', id], { answer: false })).code).toBe(1)
    expect((await stored(id)).closed_at).toBeNull()
    await run(['close', id], { answer: true, flags: { note: 'seen by Kim' } })
    expect(await stored(id)).toEqual({ closed_at: expect.any(Date), closed_by: user, resolution: 'seen by Kim' })
    await expect(run(['close', id], { answer: true })).rejects.toThrow(`by ${user} (seen by Kim)`)
  })

  const streams = async (...names: string[]): Promise<string[]> => {
    const ids: string[] = []
    for (const stream of names) ids.push(await open({ kind: 'gap', reason: 'stream_behind', stream }))
    return ids
  }
  const openIds = async () => (await listIncidents(client)).map(({ id }) => id).sort()

  test('of several ids asks once, and closes them with one note', async () => {
    const [one, two, three] = (await streams('a', 'b', 'c')) as [string, string, string]
    expect((await run(['close', one, three], { answer: false })).code).toBe(1)
    expect(await openIds()).toEqual([one, two, three].sort())
    const { code, text } = await run(['close', one, three], { answer: true, flags: { note: 'FLUSHALL' } })
    expect([code, text.split('\n').slice(-2)]).toEqual([
      0,
      [`Incident ${one} is closed.`, `Incident ${three} is closed.`],
    ])
    expect(await openIds()).toEqual([two])
    expect(await stored(three)).toMatchObject({ resolution: 'FLUSHALL' })
  })

  test('of a reason closes all open ones that have it, and of --all the rest', async () => {
    await streams('a', 'b', 'c')
    const other = await open({ kind: 'operator', reason: 'replay' })
    const closed = await run(['close'], { answer: true, json: true, flags: { reason: 'stream_behind' } })
    expect(
      closed.text
        .split('\n')
        .map((line) => JSON.parse(line).stream)
        .sort(),
    ).toEqual(['a', 'b', 'c'])
    expect(await openIds()).toEqual([other])
    expect((await run(['close'], { answer: true, flags: { reason: 'stream_behind' } })).text).toBe(
      'No open incident with reason stream_behind.',
    )
    expect((await run(['close'], { answer: true, flags: { all: true } })).code).toBe(0)
    expect(await run(['close'], { answer: true, flags: { all: true } })).toEqual({ code: 0, text: 'No open incident.' })
  })

  test('of several, one that cannot be closed keeps no other open', async () => {
    await client.query('select pg_drop_replication_slot($1)', [slot])
    const lost = await open({ kind: 'gap', reason: 'slot_lost' })
    const [behind] = (await streams('a')) as [string]
    await expect(run(['close', lost, behind], { answer: true })).rejects.toThrow(
      `Incident ${lost} (slot_lost) cannot be closed`,
    )
    expect(await openIds()).toEqual([lost])
  })

  test('a stream that lost events: whatever Redis has of it is accepted, and of no other', async () => {
    await client.query(
      `with s as (insert into outrider.session (session, lineage, hostname, pid, version, timeline)
         values (gen_random_uuid(), $1, 'h', 1, '1', 1) returning session)
       insert into outrider.head (lineage, stream_key, position, event_id, entry_id, session)
         select $1, stream, 'p', 'e', '1-1', session from s, unnest('{orders,mails}'::text[]) as stream`,
      [lineage],
    )
    await run(['close', await open({ kind: 'gap', reason: 'stream_behind', stream: 'orders' })], { answer: true })
    expect(await savedHeads()).toEqual(['mails'])
  })

  test.each(['publication_changed', 'publication_missing'] as const)(
    '%s: the publication is taken as it is now',
    async (reason) => {
      await client.query("alter publication outrider set (publish = 'insert, truncate')")
      // As setup records a missing one: each version accepts that.
      const detail = { found_by: 'outrider setup' }
      await run(['close', await open({ kind: 'gap', reason, detail })], { answer: true })
      const { rows } = await client.query("select outrider.publication_state('outrider') as state")
      expect((await currentLineage(client, slot))?.publicationState).toBe(rows[0].state)
    },
  )

  test('publication_changed of one that leaves rows out says first what makes it whole', async () => {
    await client.query("alter publication outrider set table outrider.outbox where (stream = 'orders')")
    const { message } = await verifyPublication(client, (await currentLineage(client, slot))!).catch((error) => error)
    const [, statements, id] = /`(begin; [^`]+)`, then `outrider incidents repair (\d+)`/.exec(message)!
    await client.query(statements!)
    expect((await run(['close', id!], { answer: true })).code).toBe(0)
  })

  test('publication_changed that is closed while a session starts is not opened again by what it read before', async () => {
    const before = (await currentLineage(client, slot))!
    await client.query("alter publication outrider set (publish = 'insert, truncate')")
    await run(['close', await open({ kind: 'gap', reason: 'publication_changed' })], { answer: true })
    await verifyPublication(client, before)
    expect(await listIncidents(client)).toEqual([])
  })

  test('publication_missing stays open while it is missing', async () => {
    await client.query('drop publication outrider')
    const id = await open({ kind: 'gap', reason: 'publication_missing', detail: { found_by: 'outrider setup' } })
    await expect(run(['close', id], { answer: true })).rejects.toThrow(
      'cannot be closed while the publication is missing',
    )
    expect((await stored(id)).closed_at).toBeNull()
  })

  test.each([
    ['publishes no table', 'drop table outrider.outbox', 'does not list it'],
    ['publishes another schema instead', 'set tables in schema public', 'does not list it'],
    ['leaves out rows', "set table outrider.outbox where (stream = 'orders')", 'leaves out rows or columns of it'],
    ['publishes no inserts', "set (publish = 'update')", 'publishes no inserts'],
  ])('publication_changed stays open while the publication %s, and says what makes it whole', async (_, how, found) => {
    await client.query(`alter publication outrider ${how}`)
    const id = await open({ kind: 'gap', reason: 'publication_changed' })
    const refused = String(await run(['close', id], { answer: true }).catch((error) => error))
    expect(refused).toContain(found)
    expect((await stored(id)).closed_at).toBeNull()
    const [, statements] = /`(begin; [^`]+)`/.exec(refused)!
    await client.query(statements!)
    expect((await run(['close', id], { answer: true })).code).toBe(0)
  })

  test('publication_changed stays open while the publication lists another table instead, whose oid is not recorded', async () => {
    const { outboxOids } = (await currentLineage(client, slot))!
    await client.query('create table audit_log (id int); alter publication outrider set table audit_log')
    const id = await open({ kind: 'gap', reason: 'publication_changed' })
    await expect(run(['close', id], { answer: true })).rejects.toThrow('for table only "outrider"."outbox"')
    expect((await currentLineage(client, slot))!.outboxOids).toEqual(outboxOids)
  })

  test('publication_changed can be closed where the publication has a column list with every column that is mapped', async () => {
    const columns = Object.values(OWN_OUTBOX.columns)
    await client.query(`alter publication outrider set table outrider.outbox (${columns.join(', ')}, stream)`)
    const id = await open({ kind: 'gap', reason: 'publication_changed' })
    expect((await run(['close', id], { answer: true })).code).toBe(0)
    await client.query('alter publication outrider set table outrider.outbox (id, stream)')
    const next = await open({ kind: 'gap', reason: 'publication_changed' })
    await expect(run(['close', next], { answer: true })).rejects.toThrow('leaves out rows or columns of it')
  })

  test('outbox_inherited: children are taken out of the publication, and theirs, of those that are in it', async () => {
    await client.query(`create table child (id int); create table "Grand" () inherits (child); create table unlisted () inherits (child);
      alter publication outrider add table only child, only "Grand"`)
    const detail = { table: 'outrider.outbox', children: ['public.child'] }
    await run(['close', await open({ kind: 'gap', reason: 'outbox_inherited', detail })], { answer: true })
    const { rows } = await client.query("select tablename from pg_publication_tables where pubname = 'outrider'")
    expect(rows).toEqual([{ tablename: 'outbox' }])
  })

  test.each([
    ['the relay found', {}],
    ['setup found, once the publication was there again', { found_by: 'outrider setup' }],
  ])('publication_missing that %s: it can be closed where its advice says so', async (_, detail) => {
    const id = await open({ kind: 'gap', reason: 'publication_missing', detail })
    const { next, otherwise } = JSON.parse((await run(['show', id], { json: true })).text)
    expect(next).toEqual(['outrider setup'])
    const closing = run(['close', id], { answer: true })
    if (otherwise.includes(`outrider incidents close ${id}`)) expect((await closing).code).toBe(0)
    else await expect(closing).rejects.toThrow(`\`${otherwise[0]}\``)
  })

  test('slot_ahead: what the slot has skipped is accepted', async () => {
    await client.query('select pg_replication_slot_advance($1, pg_current_wal_lsn())', [slot])
    await run(['close', await open({ kind: 'gap', reason: 'slot_ahead' })], { answer: true })
    const { rows } = await client.query(
      'select confirmed_flush_lsn::text as lsn from pg_replication_slots where slot_name = $1',
      [slot],
    )
    expect((await currentLineage(client, slot))?.confirmedLsn).toBe(rows[0].lsn)
  })

  test('slot_ahead of a slot that is gone stays open', async () => {
    await client.query('select pg_drop_replication_slot($1)', [slot])
    const id = await open({ kind: 'gap', reason: 'slot_ahead' })
    await expect(run(['close', id], { answer: true })).rejects.toThrow(
      'slot that this lineage depends on is missing or lost',
    )
  })

  test.each(['slot_missing', 'slot_lost'] as const)(
    '%s of a slot that a repair has created again: what the slot has skipped is accepted',
    async (reason) => {
      const id = await open({ kind: 'gap', reason })
      await client.query(
        `select pg_drop_replication_slot($1); select pg_create_logical_replication_slot($1, 'pgoutput')`.replaceAll(
          '$1',
          client.escapeLiteral(slot),
        ),
      )
      expect((await run(['close', id], { answer: true })).code).toBe(0)
      const { rows } = await client.query(
        'select confirmed_flush_lsn::text as lsn from pg_replication_slots where slot_name = $1',
        [slot],
      )
      expect((await currentLineage(client, slot))?.confirmedLsn).toBe(rows[0].lsn)
    },
  )

  test('slot_ahead of a slot that came back older: nothing that is confirmed is confirmed less', async () => {
    await client.query('update outrider.lineage set confirmed_lsn = confirmed_lsn + 4096')
    const before = (await currentLineage(client, slot))!.confirmedLsn
    await run(['close', await open({ kind: 'gap', reason: 'slot_ahead' })], { answer: true })
    expect((await currentLineage(client, slot))!.confirmedLsn).toBe(before)
  })

  test.each([
    ['slot_missing', 'halt', ['outrider incidents repair 1']],
    ['slot_lost', 'repair', []],
    ['something_newer', 'repair', ['outrider adopt']],
  ] as const)(
    '%s cannot be closed while the slot is gone, and with onGap: %s it says what leads on',
    async (reason, onGap, next) => {
      await client.query('select pg_drop_replication_slot($1)', [slot])
      const { rows } = await client.query<{ id: string }>(
        "insert into outrider.incident (lineage, kind, reason) values ($1, 'gap', $2) returning id::text",
        [lineage, reason],
      )
      const { id } = rows[0]!
      const shown = JSON.parse((await run(['show', id], { json: true, config: { onGap } })).text)
      expect(shown.next).toEqual(next)
      expect([...shown.next, ...shown.otherwise]).toContain('outrider adopt')
      await expect(run(['close', id], { answer: true })).rejects.toThrow('`outrider adopt` starts a new lineage')
      expect((await stored(id)).closed_at).toBeNull()
    },
  )

  test('foreign: the relay looks again', async () => {
    const id = await open({ kind: 'foreign', reason: 'session_unknown' })
    expect((await run(['close', id], { answer: true })).code).toBe(0)
  })
})
