import { describe, expect } from 'vitest'
import type { Finding } from '../../src/check/finding.js'
import { adopt } from '../../src/cli/adopt.js'
import type { Command } from '../../src/cli/command.js'
import { incidents } from '../../src/cli/incidents.js'
import { setup } from '../../src/cli/setup.js'
import type { Config } from '../../src/config/schema.js'
import { headKey } from '../../src/event/names.js'
import type { HaltingReason } from '../../src/postgres/state/incident-reasons.js'
import { openIncident } from '../../src/postgres/state/incidents.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { runCheck } from '../check/run.js'
import { runCommand } from '../support/command.js'
import { add, mapped, mapping, SWAP, TABLE, yaml } from './outbox-table-env.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

/** What causes an incident, while the relay runs. */
interface Cause {
  happens(env: RelayEnv, head: string): Promise<unknown>
  /** Of a server of its own. */
  settings?: Record<string, string>
  variables?: Record<string, string>
  /** A table of the team's own, not Outrider's. */
  isMapped?: true
}

/** Its next session looks at everything again. */
const endSession = (env: RelayEnv) =>
  env.postgres.query('select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1', [
    env.slot,
  ])

/** Until it succeeds between two sessions of the relay, which hold the slot. */
async function changeSlot(env: RelayEnv, statement: string, before?: () => Promise<unknown>): Promise<void> {
  await until(async () => {
    await endSession(env)
    await before?.()
    await env.postgres.query(statement, [env.slot])
    return true
  })
}

const LINEAGE = 'update outrider.lineage set'

/** Complete: a reason without an entry does not compile. */
const causes: Record<HaltingReason, Cause> = {
  slot_missing: { happens: (env) => changeSlot(env, 'select pg_drop_replication_slot($1)') },
  slot_lost: {
    settings: { max_slot_wal_keep_size: '1MB' },
    happens: (env) =>
      until(async () => {
        await endSession(env)
        await env.postgres.query('select pg_switch_wal()')
        await env.insert('elsewhere')
        await env.postgres.query('checkpoint')
        const { rows } = await env.postgres.query('select wal_status from pg_replication_slots')
        return rows[0].wal_status === 'lost'
      }),
  },
  slot_ahead: {
    happens: (env) =>
      changeSlot(env, 'select pg_replication_slot_advance($1, pg_current_wal_lsn())', () => env.insert('elsewhere')),
  },
  publication_missing: { happens: (env) => env.postgres.query('drop publication outrider') },
  publication_changed: {
    async happens(env) {
      await env.postgres.query('alter publication outrider drop table outrider.outbox')
      await env.postgres.query('alter publication outrider add table outrider.outbox')
    },
  },
  outbox_renamed: {
    isMapped: true,
    async happens(env) {
      // As an earlier version has left it; and the hardest case, with a view in its place.
      await env.postgres.query(`begin; ${LINEAGE} outbox_oids = '{}'; alter table ${TABLE} rename to events;
        create view ${TABLE} as select * from public.events; commit`)
    },
  },
  outbox_replaced: { isMapped: true, happens: (env) => env.postgres.query(SWAP) },
  outbox_inherited: {
    isMapped: true,
    happens: (env) =>
      env.postgres.query(
        `create table public.child () inherits (${TABLE}); create table public."Other" () inherits (${TABLE})`,
      ),
  },
  outbox_unlogged: {
    happens: (env) =>
      env.postgres.query('alter table outrider.outbox_0 set unlogged; alter table outrider.outbox_1 set unlogged'),
  },
  outbox_foreign_rows: {
    isMapped: true,
    happens: (env) =>
      env.postgres.query(`create table public.other (like ${TABLE}); begin; alter publication outrider add table public.other;
        insert into public.other values ('foreign', 'orders', 't'); alter publication outrider drop table public.other; commit`),
  },
  stream_behind: { happens: (env) => env.redis.del('orders') },
  system_id: { happens: (env) => env.postgres.query(`${LINEAGE} system_id = '1'`) },
  timeline: { happens: (env) => env.postgres.query(`${LINEAGE} timeline = 99`) },
  session_unknown: { happens: (env, head) => env.redis.hset(head, 'session', crypto.randomUUID()) },
  wal_beyond: { happens: (env, head) => env.redis.hset(head, 'position', '00000001-00ffffff00000000-00000000') },
  diverged: {
    // Confirms late: what was published last comes again.
    variables: { OUTRIDER_DURABILITY: 'memory' },
    async happens(env, head) {
      const event = await env.insert('orders')
      await until(async () => (await env.redis.hget(head, 'event')) === event)
      await env.redis.hset(head, 'event', crypto.randomUUID())
    },
  },
}

const PUBLICATION_OMITS: Cause = {
  happens: (env) =>
    env.postgres.query("alter publication outrider set table outrider.outbox where (stream <> 'orders')"),
}

/** Runs a command as it was printed, and answers its question with yes. */
async function run(env: RelayEnv, line: string, config: Partial<Config> = {}): Promise<string> {
  const commands: Record<string, Command> = { adopt, setup, incidents }
  const [program, name, ...args] = line.split(' ')
  expect(program).toBe('outrider')
  const command = commands[name as string]
  if (!command) throw new Error(`Expected one of ${Object.keys(commands).join(', ')}, found: ${line}`)
  const { code, text } = await runCommand(command, env.database.url, { args, answer: true, config })
  // Setup reports the gap as a finding, too.
  expect(name === 'setup' ? [0, 4] : [0], text).toContain(code)
  return text
}

const SHOWS = /outrider incidents show \d+/

/** Before what a person may do instead. */
const OTHERWISE = /(?<=\. )Or `|^\s*(?:or|otherwise|instead)\b/im

/** What a text names to be run, but for what only shows: commands, and statements in one line each. */
const advised = (text: string): string[] =>
  [
    ...text
      .split(OTHERWISE, 1)[0]!
      .matchAll(/outrider (?:adopt|setup|incidents (?:close|repair) \d+)|(?<=`|^)(?:begin;|alter) .*?;(?=`|$)/gm),
  ].map(([step]) => step)

/** The same of a finding of `check`, whose statements stand on lines of their own. */
const advisedBy = ({ fix }: Finding): string[] =>
  fix.flatMap(({ how, text }) => (how.startsWith('In SQL') ? [text.replaceAll('\n', ' ')] : advised(text)))

/** Every place that gives advice names the same steps; they are run in their order, and events flow again. */
async function followed(env: RelayEnv, relay: RelayProcess, reason: string, { isMapped }: Cause): Promise<void> {
  const config: Partial<Config> = { onGap: 'halt', ...(isMapped && { outbox: mapping() }) }
  const message = await until(
    async () => {
      const status = await relay.status()
      return status?.role === 'halted' && status.reason === reason && SHOWS.test(status.message ?? '') && status.message
    },
    { message: () => `the incident ${reason}\n${relay.tail()}` },
  )
  const steps = advised(message)
  expect(steps, message).not.toEqual([])

  const [shows] = SHOWS.exec(message)!
  expect(advised(await run(env, shows, config))).toEqual(steps)

  const check = async () => {
    const { findings } = await runCheck(env.database.url, env.variables.OUTRIDER_REDIS_URL!, config)
    return findings.filter(({ level, server }) => level === 'blocker' && server === 'postgres')
  }
  const open = await check()
  expect(open.map(({ id }) => id)).toContain('incident-open')
  for (const finding of open) expect(advisedBy(finding), finding.id).toEqual(steps)

  for (const step of steps) await (step.startsWith('outrider') ? run(env, step, config) : env.postgres.query(step))
  await relay.streaming()
  const event = await publish(env, isMapped)
  await until(async () => (await env.ids('orders')).includes(event), { message: 'events to flow again' })
  // A gap that is repaired waits for what was open.
  await until(async () => (await check()).length === 0, { message: 'nothing to be found any more' })
}

async function publish(env: RelayEnv, isMapped?: true): Promise<string> {
  if (!isMapped) return env.insert('orders')
  const id = crypto.randomUUID()
  await add(env, TABLE, id)
  return id
}

describe('the advice of an incident leads on as it is printed:', () => {
  test.concurrent.for([...Object.entries(causes), ['publication_changed', PUBLICATION_OMITS] as const])(
    '%s',
    async ([reason, cause], { createEnv, configFile, skip, onTestFinished }) => {
      needsProcess({ skip })
      const { settings, isMapped, variables } = cause
      const server = settings && (await startPostgres({ settings }))
      onTestFinished(() => server?.remove())
      const env = await createEnv({ database: await server?.createDatabase(), ...(isMapped && mapped) })
      const relay = await env.relay({ ...variables, ...(isMapped && { OUTRIDER_CONFIG: await configFile(yaml()) }) })
      await relay.streaming()
      await publish(env, isMapped)
      await until(async () => (await env.postgres.query('select from outrider.head')).rowCount === 1)
      const { lineage } = (await currentLineage(env.postgres, env.slot))!
      await cause.happens(env, headKey('orders', lineage))
      await endSession(env)
      await followed(env, relay, reason, cause)
    },
  )

  test.concurrent('a rejected row, and one that an operator is to know of: closing takes them off the list', async ({
    env,
  }) => {
    const relay = await env.relay({ OUTRIDER_MAX_EVENT_BYTES: '1KiB' })
    await relay.streaming()
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
