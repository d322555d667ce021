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
import { type RelayEnv, relayTest as test } from './relay-env.js'

/** One kind of incident: what causes it, while the relay runs. */
interface Cause {
  reason: string
  happens(env: RelayEnv, head: string): Promise<unknown>
}

/** Its next session looks at everything again. */
const endSession = (env: RelayEnv) =>
  env.postgres.query('select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1', [
    env.slot,
  ])

/** Until it succeeds between two sessions of the relay, which hold the slot. */
async function changeSlot(env: RelayEnv, statement: string): Promise<void> {
  await until(async () => {
    await endSession(env)
    await env.postgres.query(statement, [env.slot])
    return true
  })
}

const LINEAGE = 'update outrider.lineage set'

const causes: Cause[] = [
  { reason: 'slot_missing', happens: (env) => changeSlot(env, 'select pg_drop_replication_slot($1)') },
  {
    reason: 'slot_ahead',
    happens: (env) => changeSlot(env, 'select pg_replication_slot_advance($1, pg_current_wal_insert_lsn())'),
  },
  {
    reason: 'publication_missing',
    happens: (env) => env.postgres.query('drop publication outrider'),
  },
  {
    reason: 'publication_changed',
    async happens(env) {
      await env.postgres.query('alter publication outrider drop table outrider.outbox')
      await env.postgres.query('alter publication outrider add table outrider.outbox')
    },
  },
  { reason: 'stream_behind', happens: (env) => env.redis.del('orders') },
  { reason: 'system_id', happens: (env) => env.postgres.query(`${LINEAGE} system_id = '1'`) },
  { reason: 'timeline', happens: (env) => env.postgres.query(`${LINEAGE} timeline = 99`) },
  {
    reason: 'session_unknown',
    happens: (env, head) => env.redis.hset(head, 'session', crypto.randomUUID()),
  },
  {
    reason: 'wal_beyond',
    happens: (env, head) => env.redis.hset(head, 'position', '00000001-00ffffff00000000-00000000'),
  },
]

/** Runs a command as it was printed, and answers its question with yes. */
async function run(env: RelayEnv, line: string): Promise<string> {
  const commands: Record<string, Command> = { adopt, setup, incidents }
  const [program, name, ...args] = line.split(' ')
  expect(program).toBe('outrider')
  const command = commands[name as string]
  if (!command) throw new Error(`Expected one of ${Object.keys(commands).join(', ')}, found: ${line}`)
  const { code, text } = await runCommand(command, env.database.url, { args, answer: true })
  // Setup reports the gap as a finding, too.
  expect(name === 'setup' ? [0, 4] : [0], text).toContain(code)
  return text
}

/** The commands in a text, but for those that only show. */
const advised = (text: string): string[] =>
  [...text.matchAll(/outrider (?:adopt|setup|incidents close \d+)/g)].map(([line]) => line)

/** Every place that gives advice names the same commands; they are run in their order, and events flow again. */
async function followed(env: RelayEnv, relay: RelayProcess, url: string, reason: string): Promise<void> {
  await relay.is({ role: 'halted', reason }, 60_000)
  const { message = '' } = (await relay.status())!
  const commands = advised(message)
  expect(commands, message).not.toEqual([])

  const [shows] = /outrider incidents show \d+/.exec(message)!
  expect(advised(await run(env, shows))).toEqual(commands)

  const { findings } = await runCheck(env.database.url, url)
  const open = findings.filter(({ level, server }) => level === 'blocker' && server === 'postgres')
  expect(open.map(({ id }) => id)).toContain('incident-open')
  for (const { id, fix } of open) {
    const says = advised(fix.map(({ text }) => text).join('\n'))
    expect(says, id).toEqual(commands)
  }

  for (const command of commands) await run(env, command)
  await relay.streaming(60_000)
  const event = await env.insert('orders')
  await until(async () => (await env.ids('orders')).includes(event), { message: 'events to flow again' })
  const after = await runCheck(env.database.url, url)
  expect(after.findings.filter(({ level, server }) => level === 'blocker' && server === 'postgres')).toEqual([])
}

/** A relay whose one event is published and confirmed; the head of its stream. */
async function confirmed(env: RelayEnv): Promise<{ relay: RelayProcess; head: string }> {
  const relay = await env.relay()
  await relay.streaming(60_000)
  await env.insert('orders')
  await until(async () => (await env.postgres.query('select from outrider.head')).rowCount === 1)
  const { lineage } = (await currentLineage(env.postgres, env.slot))!
  return { relay, head: headKey('orders', lineage) }
}

describe('the advice of an incident leads on as it is printed:', { timeout: 120_000 }, () => {
  test.concurrent.for(causes)('$reason', async (cause, { env, skip }) => {
    needsProcess({ skip })
    const { relay, head } = await confirmed(env)
    await cause.happens(env, head)
    await endSession(env)
    await followed(env, relay, env.variables.OUTRIDER_REDIS_URL!, cause.reason)
  })

  test.concurrent('slot_lost', async ({ createEnv, skip, onTestFinished }) => {
    needsProcess({ skip })
    const server = await startPostgres({ settings: { max_slot_wal_keep_size: '1MB' } })
    onTestFinished(() => server.remove())
    const env = await createEnv({ database: await server.createDatabase() })
    const { relay } = await confirmed(env)
    await relay.stop()
    await until(async () => {
      await env.postgres.query('select pg_switch_wal()')
      await env.insert('elsewhere')
      await env.postgres.query('checkpoint')
      const { rows } = await env.postgres.query('select wal_status from pg_replication_slots')
      return rows[0].wal_status === 'lost'
    })
    await followed(env, await env.relay(), env.variables.OUTRIDER_REDIS_URL!, 'slot_lost')
  })

  test.concurrent('a rejected row, and one that an operator is to know of: closing takes them off the list', async ({
    env,
  }) => {
    const relay = await env.relay({ OUTRIDER_MAX_EVENT_BYTES: '1KiB' })
    await relay.streaming(60_000)
    await env.insert('orders', 'x'.repeat(2_000))
    const open = async () =>
      (await env.postgres.query('select id::text, kind from outrider.incident where closed_at is null order by id'))
        .rows
    await until(async () => (await open()).length === 1)
    const { lineage } = (await currentLineage(env.postgres, env.slot))!
    await openIncident(env.postgres, { lineage, kind: 'operator', reason: 'possible_phantoms', stream: 'orders' })
    for (const { id } of await open()) {
      const commands = advised(await run(env, `outrider incidents show ${id}`))
      expect(commands).toEqual([`outrider incidents close ${id}`])
      for (const command of commands) await run(env, command)
    }
    expect(await open()).toEqual([])
    expect(await relay.status()).toMatchObject({ state: 'streaming' })
  })
})
