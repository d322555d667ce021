import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { incidents } from '../../src/cli/incidents.js'
import { setup } from '../../src/cli/setup.js'
import type { NewIncident } from '../../src/postgres/incident.js'
import type { IncidentCause } from '../../src/postgres/incident-reasons.js'
import { listIncidents, openIncident, openIncidents } from '../../src/postgres/incidents.js'
import { currentLineage } from '../../src/postgres/lineage.js'
import type { Database } from '../../testkit/services/index.js'
import { type CommandRun, runCommand } from '../support/command.js'
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

  test('a rejected row is one incident for ever, also when it is replayed after closing', async () => {
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
    expect(text.split('\n').map((line) => line.split(/ {2,}/).slice(0, 5))).toEqual([
      ['id', 'state', 'kind', 'reason', 'stream'],
      ['2', 'open', 'rejected', 'too_large', expect.stringMatching(/Z$/)],
      ['1', 'open', 'gap', 'stream_behind', 'orders'],
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

  test('show prints all of it', async () => {
    const id = await open({
      kind: 'rejected',
      reason: 'bad_header',
      position: 'p',
      stream: 's',
      eventId: 'e',
      row: { a: 'b' },
    })
    const { text } = await run(['show', id])
    for (const part of [`${id}: rejected, bad_header`, lineage, 'event     e', '"a": "b"']) expect(text).toContain(part)
  })

  test.each([[['show']], [['show', 'x']], [['close', '1', '2']], [['retry', '1']], [['list', '1']]])(
    '%j is wrong usage',
    async (args) => {
      await expect(run(args)).rejects.toMatchObject({ name: 'Failure', exitCode: 2 })
    },
  )

  test.each([['show'], ['close']])('%s of one that is not there fails', async (action) => {
    await expect(run([action, '77'])).rejects.toThrow('Found no incident 77.')
  })

  test('without a schema it says what to do', async () => {
    await client.query('drop schema outrider cascade')
    await expect(run([])).rejects.toThrow('`outrider setup` creates or completes it')
  })
})

describe('close', () => {
  test('asks, and notes who and why', async () => {
    const { user } = (await client.query('select current_user as user')).rows[0]
    const id = await open({ kind: 'operator', reason: 'replay' })
    expect((await run(['close', id], { answer: false })).code).toBe(1)
    expect((await stored(id)).closed_at).toBeNull()
    await run(['close', id], { answer: true, flags: { note: 'seen by Kim' } })
    expect(await stored(id)).toEqual({ closed_at: expect.any(Date), closed_by: user, resolution: 'seen by Kim' })
    await expect(run(['close', id], { answer: true })).rejects.toThrow(`by ${user} (seen by Kim)`)
  })

  test('a stream that lost events: the loss is accepted by forgetting its head, and no other', async () => {
    await client.query(
      `with s as (insert into outrider.session (session, lineage, hostname, pid, version, timeline)
         values (gen_random_uuid(), $1, 'h', 1, '1', 1) returning session)
       insert into outrider.head (lineage, stream_key, position, event_id, entry_id, session)
         select $1, stream, 'p', 'e', '1-1', session from s, unnest('{orders,mails}'::text[]) as stream`,
      [lineage],
    )
    await run(['close', await open({ kind: 'gap', reason: 'stream_behind', stream: 'orders' })], { answer: true })
    expect((await client.query('select stream_key from outrider.head')).rows).toEqual([{ stream_key: 'mails' }])
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

  test('publication_missing stays open while it is missing', async () => {
    await client.query('drop publication outrider')
    const id = await open({ kind: 'gap', reason: 'publication_missing', detail: { found_by: 'outrider setup' } })
    await expect(run(['close', id], { answer: true })).rejects.toThrow(
      'cannot be closed while the publication is missing',
    )
    expect((await stored(id)).closed_at).toBeNull()
  })

  test.each([
    ['the relay found', {}],
    ['setup found, once the publication was there again', { found_by: 'outrider setup' }],
  ])('publication_missing that %s: it can be closed where its advice says so', async (_, detail) => {
    const id = await open({ kind: 'gap', reason: 'publication_missing', detail })
    const { next } = JSON.parse((await run(['show', id], { json: true })).text)
    const closing = run(['close', id], { answer: true })
    if (next.includes(`outrider incidents close ${id}`)) expect((await closing).code).toBe(0)
    else await expect(closing).rejects.toThrow(`\`${next[0]}\``)
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
    await expect(run(['close', id], { answer: true })).rejects.toThrow('the slot is missing or lost')
  })

  test.each(['slot_missing', 'slot_lost', 'something_newer'])(
    '%s cannot be closed, but adopted, and that is what it says',
    async (reason) => {
      const { rows } = await client.query<{ id: string }>(
        "insert into outrider.incident (lineage, kind, reason) values ($1, 'gap', $2) returning id::text",
        [lineage, reason],
      )
      const { id } = rows[0]!
      expect(JSON.parse((await run(['show', id], { json: true })).text).next).toEqual(['outrider adopt'])
      await expect(run(['close', id], { answer: true })).rejects.toThrow('`outrider adopt` starts a new lineage')
      expect((await stored(id)).closed_at).toBeNull()
    },
  )

  test('foreign: the relay looks again', async () => {
    const id = await open({ kind: 'foreign', reason: 'session_unknown' })
    expect((await run(['close', id], { answer: true })).code).toBe(0)
  })
})
