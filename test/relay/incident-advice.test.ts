import { describe, expect } from 'vitest'
import { adopt } from '../../src/cli/adopt.js'
import type { Command } from '../../src/cli/command.js'
import { incidents } from '../../src/cli/incidents.js'
import { setup } from '../../src/cli/setup.js'
import { headKey } from '../../src/event/names.js'
import { openIncident } from '../../src/postgres/incidents.js'
import { currentLineage } from '../../src/postgres/lineage.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { runCheck } from '../check/run.js'
import { runCommand } from '../support/command.js'
import { test } from './fixture.js'
import type { Scenario } from './scenario.js'

/** One kind of incident: what causes it, while the relay runs or between two runs. */
interface Cause {
  reason: string
  while: 'running' | 'stopped'
  happens(s: Scenario, head: string): Promise<unknown>
}

const dropSlot = async (s: Scenario) => {
  await s.postgres.query('select pg_drop_replication_slot($1)', [s.slot])
}

const LINEAGE = 'update outrider.lineage set'

const causes: Cause[] = [
  { reason: 'slot_missing', while: 'stopped', happens: dropSlot },
  {
    reason: 'slot_ahead',
    while: 'stopped',
    async happens(s) {
      await dropSlot(s)
      await s.postgres.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [s.slot])
    },
  },
  {
    reason: 'publication_missing',
    while: 'running',
    happens: (s) => s.postgres.query('drop publication outrider'),
  },
  {
    reason: 'publication_changed',
    while: 'running',
    async happens(s) {
      await s.postgres.query('alter publication outrider drop table outrider.outbox')
      await s.postgres.query('alter publication outrider add table outrider.outbox')
    },
  },
  { reason: 'stream_behind', while: 'running', happens: (s) => s.redis.del('orders') },
  { reason: 'system_id', while: 'stopped', happens: (s) => s.postgres.query(`${LINEAGE} system_id = '1'`) },
  { reason: 'timeline', while: 'stopped', happens: (s) => s.postgres.query(`${LINEAGE} timeline = 99`) },
  {
    reason: 'session_unknown',
    while: 'stopped',
    happens: (s, head) => s.redis.hset(head, 'session', crypto.randomUUID()),
  },
  {
    reason: 'wal_beyond',
    while: 'stopped',
    happens: (s, head) => s.redis.hset(head, 'position', '00000001-00ffffff00000000-00000000'),
  },
]

/** Runs a command as it was printed, and answers its question with yes. */
async function run(s: Scenario, line: string): Promise<string> {
  const commands: Record<string, Command> = { adopt, setup, incidents }
  const [program, name, ...args] = line.split(' ')
  expect(program).toBe('outrider')
  const command = commands[name as string]
  if (!command) throw new Error(`Expected one of ${Object.keys(commands).join(', ')}, found: ${line}`)
  const { code, text } = await runCommand(command, s.database.url, { args, answer: true })
  // Setup reports the gap as a finding, too.
  expect(name === 'setup' ? [0, 4] : [0], text).toContain(code)
  return text
}

/** The commands in a text, but for those that only show. */
const advised = (text: string): string[] =>
  [...text.matchAll(/outrider (?:adopt|setup|incidents close \d+)/g)].map(([line]) => line)

/** Every place that gives advice names the same commands; they are run in their order, and events flow again. */
async function followed(s: Scenario, relay: RelayProcess, url: string, reason: string): Promise<void> {
  await relay.is({ role: 'halted', reason }, 60_000)
  const { message = '' } = (await relay.status())!
  const commands = advised(message)
  expect(commands, message).not.toEqual([])

  const [shows] = /outrider incidents show \d+/.exec(message)!
  expect(advised(await run(s, shows))).toEqual(commands)

  const { findings } = await runCheck(s.database.url, url)
  const open = findings.filter(({ level, server }) => level === 'blocker' && server === 'postgres')
  expect(open.map(({ id }) => id)).toContain('incident-open')
  for (const { id, fix } of open) {
    const says = advised(fix.map(({ text }) => text).join('\n'))
    expect(says, id).toEqual(commands)
  }

  for (const command of commands) await run(s, command)
  await relay.streaming(60_000)
  const event = await s.insert('orders')
  await until(async () => (await s.ids('orders')).includes(event), { message: 'events to flow again' })
  const after = await runCheck(s.database.url, url)
  expect(after.findings.filter(({ level, server }) => level === 'blocker' && server === 'postgres')).toEqual([])
}

/** A relay whose one event is published and confirmed; the head of its stream. */
async function confirmed(s: Scenario): Promise<{ relay: RelayProcess; head: string }> {
  const relay = await s.relay()
  await relay.streaming(60_000)
  await s.insert('orders')
  await until(async () => (await s.postgres.query('select from outrider.head')).rowCount === 1)
  const { lineage } = (await currentLineage(s.postgres, s.slot))!
  return { relay, head: headKey('orders', lineage) }
}

describe('the advice of an incident leads on as it is printed:', () => {
  test.concurrent.for(causes)('$reason', async (cause, { scenario, skip }) => {
    needsProcess({ skip })
    const s = await scenario()
    const { relay, head } = await confirmed(s)
    if (cause.while === 'running') {
      await cause.happens(s, head)
      await followed(s, relay, s.env.OUTRIDER_REDIS_URL!, cause.reason)
    } else {
      await relay.stop()
      await cause.happens(s, head)
      await followed(s, await s.relay(), s.env.OUTRIDER_REDIS_URL!, cause.reason)
    }
  })

  test.concurrent('slot_lost', async ({ scenario, skip, onTestFinished }) => {
    needsProcess({ skip })
    const server = await startPostgres({ settings: { max_slot_wal_keep_size: '1MB' } })
    onTestFinished(() => server.remove())
    const s = await scenario({ database: await server.createDatabase() })
    const { relay } = await confirmed(s)
    await relay.stop()
    await until(async () => {
      await s.postgres.query('select pg_switch_wal()')
      await s.insert('elsewhere')
      await s.postgres.query('checkpoint')
      const { rows } = await s.postgres.query('select wal_status from pg_replication_slots')
      return rows[0].wal_status === 'lost'
    })
    await followed(s, await s.relay(), s.env.OUTRIDER_REDIS_URL!, 'slot_lost')
  })

  test.concurrent('a rejected row, and one that an operator is to know of: closing takes them off the list', async ({
    scenario,
  }) => {
    const s = await scenario()
    const relay = await s.relay({ OUTRIDER_MAX_EVENT_BYTES: '1KiB' })
    await relay.streaming(60_000)
    await s.insert('orders', 'x'.repeat(2_000))
    const open = async () =>
      (await s.postgres.query('select id::text, kind from outrider.incident where closed_at is null order by id')).rows
    await until(async () => (await open()).length === 1)
    const { lineage } = (await currentLineage(s.postgres, s.slot))!
    await openIncident(s.postgres, { lineage, kind: 'operator', reason: 'possible_phantoms', stream: 'orders' })
    for (const { id } of await open()) {
      const commands = advised(await run(s, `outrider incidents show ${id}`))
      expect(commands).toEqual([`outrider incidents close ${id}`])
      for (const command of commands) await run(s, command)
    }
    expect(await open()).toEqual([])
    expect(await relay.status()).toMatchObject({ state: 'streaming' })
  })
})
