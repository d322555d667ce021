import pg from 'pg'
import { afterAll, test as base, beforeAll, describe, expect } from 'vitest'
import { setUp } from '../../src/postgres/setup/setup.js'
import { createDatabase, type Database, until } from '../../testkit/services/index.js'
import { consumerTest, effect } from '../consumer/consumer-env.js'
import { GROUP, Happened } from '../consumer/happened.js'

// What the relay does as `outrider_relay` is what all of test/relay does: its relays log in as nothing more.

type Role = 'writer' | 'relay' | 'consumer'
const ROLES: readonly Role[] = ['writer', 'relay', 'consumer']

let database: Database
let owner: pg.Client
const clients: Record<Role, pg.Client> = {} as never
const login = (role: Role) => `${database.name}_${role}`

beforeAll(async () => {
  database = await createDatabase()
  owner = await database.connect()
  await setUp(owner, {
    slot: `outrider_${database.name}`,
    publication: 'outrider',
    source: undefined,
    outboxTable: 'outrider.outbox',
    partitions: new Map(),
    lockTimeout: 60_000,
  })
  await owner.query('create table invoice (n int)')
  for (const role of ROLES) {
    const replication = role === 'relay' ? 'replication' : ''
    await owner.query(`create role ${login(role)} login ${replication} password 'secret' in role outrider_${role}`)
    clients[role] = await database.connect({ user: login(role), password: 'secret' })
  }
})

afterAll(async () => {
  for (const client of Object.values(clients)) await client.end()
  for (const role of Object.keys(clients) as Role[]) await owner.query(`drop role ${login(role)}`)
  await owner?.end()
  await database?.drop()
})

/** The SQLSTATE; `accepted` where the role may do it, though the statement itself may then be wrong. */
async function refusal(client: pg.Client, sql: string): Promise<string> {
  await client.query('begin')
  try {
    await client.query(sql)
    return 'accepted'
  } catch (error) {
    const { code = 'none' } = error as pg.DatabaseError
    return code === '42501' ? code : 'accepted'
  } finally {
    await client.query('rollback')
  }
}

/** Every table, partition, view and sequence of the schema, those of later migrations, too, each with its columns. */
async function relations(): Promise<{ name: string; kind: string; columns: string[] }[]> {
  const { rows } = await owner.query(
    `select relname as name, relkind::text as kind,
       array(select attname::text from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped order by attnum)
         as columns
     from pg_class c where relnamespace = 'outrider'::regnamespace and relkind in ('r', 'p', 'v', 'S') order by relname`,
  )
  return rows
}

const MAY: Record<Role, string[]> = {
  writer: ['insert outbox'],
  relay: [
    ...['checkpoint', 'gap_stream', 'head', 'incident', 'moved_event', 'present', 'repair'].map(
      (name) => `delete ${name}`,
    ),
    ...['delete', 'insert', 'select'].flatMap((act) => [`${act} request_event`, `${act} request_stream`]),
    ...['insert request', 'select request', 'update request', 'update request_stream'],
    ...['checkpoint', 'consumer_group', 'gap_stream', 'head', 'horizon', 'incident', 'moved_event', 'present'].map(
      (name) => `insert ${name}`,
    ),
    ...['insert repair', 'insert session', 'insert stream'],
    ...['checkpoint', 'consumer_group', 'gap_stream', 'head', 'horizon', 'incident', 'lineage', 'migration'].map(
      (name) => `select ${name}`,
    ),
    ...['emptied', 'moved_event', 'outbox', 'present', 'rejected', 'repair', 'session', 'stream'].map(
      (name) => `select ${name}`,
    ),
    ...['consumer_group', 'gap_stream', 'head', 'horizon', 'incident', 'repair', 'stream'].map(
      (name) => `update ${name}`,
    ),
    ...['confirmed_lsn', 'publication_state', 'redis', 'timeline'].map((column) => `update lineage.${column}`),
  ],
  consumer: [
    ...['delete inbox', 'delete worker', 'insert inbox', 'insert subscription', 'insert worker'],
    ...['select inbox', 'select subscription', 'select worker'],
    ...['update inbox.processed_at', 'update subscription', 'update worker'],
  ],
}

/** Reads and writes of other tables, and what makes, alters or reveals more than rows. */
const FORBIDDEN: Record<Role, string[]> = {
  writer: ["select outrider.accept('g', 's', 'i')", "select outrider.publication_state('outrider')"],
  relay: [
    "select outrider.publish('a', 'b')",
    "select outrider.accept('g', 's', 'i')",
    'alter publication outrider drop table outrider.outbox',
    'drop publication outrider',
  ],
  consumer: ["select outrider.publish('a', 'b')", "select outrider.publication_state('outrider')"],
}
const FORBIDDEN_TO_ALL = [
  'select from invoice',
  'insert into invoice values (1)',
  'create table outrider.mine (n int)',
  'create function outrider.accept(text) returns void language sql as $$ $$',
  'alter table outrider.outbox add column mine int',
  'create index on outrider.outbox (type)',
  'create trigger t before insert on outrider.outbox for each row execute function suppress_redundant_updates_trigger()',
  'grant outrider_relay to current_user',
  'set role pg_read_all_data',
  'create role mine',
  'create schema mine',
  'create publication mine for all tables',
  "select pg_read_file('postgresql.conf')",
  "copy (select 1) to program 'true'",
  'select * from pg_authid',
]

describe.each(ROLES)('the role of a %s', (role) => {
  base('may do exactly this with tables, views and sequences', async () => {
    const may: string[] = []
    const tryTo = async (act: string, sql: string) => {
      if ((await refusal(clients[role], sql)) === 'accepted') may.push(act)
    }
    for (const { name, kind, columns } of await relations()) {
      const table = `outrider.${name}`
      await tryTo(`select ${name}`, `select from ${table}`)
      // Of views, which stand on one table each, the rest is the right to that.
      if (kind === 'v') continue
      if (kind === 'S') {
        await tryTo(`nextval ${name}`, `select nextval('${table}')`)
        await tryTo(`setval ${name}`, `select setval('${table}', 1)`)
        continue
      }
      await tryTo(`insert ${name}`, `insert into ${table} default values`)
      await tryTo(`delete ${name}`, `delete from ${table} where false`)
      await tryTo(`truncate ${name}`, `truncate ${table}`)
      const before = may.length
      for (const column of columns)
        await tryTo(`update ${name}.${column}`, `update ${table} set ${column} = default where false`)
      if (may.length - before === columns.length) may.splice(before, columns.length, `update ${name}`)
    }
    expect(may.sort()).toEqual([...MAY[role]].sort())
  })

  base('may do nothing beside them', async () => {
    for (const sql of [...FORBIDDEN_TO_ALL, ...FORBIDDEN[role]]) {
      if (role === 'relay' && sql.includes('outrider_relay')) continue
      expect([sql, await refusal(clients[role], sql)]).toEqual([sql, '42501'])
    }
  })

  base('is none that anybody can log in as, and owns nothing', async () => {
    const { rows } = await owner.query(
      `select rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls as more,
         (select count(*)::int from pg_shdepend where refobjid = r.oid and deptype = 'o') as owned,
         (select count(*)::int from pg_auth_members where member = r.oid) as memberships
       from pg_roles r where rolname = $1`,
      [`outrider_${role}`],
    )
    expect(rows).toEqual([{ more: false, owned: 0, memberships: 0 }])
  })
})

base('a writer and a worker can neither read, make nor drop a replication slot; a relay can, and any', async () => {
  const other = `other_${database.name}`
  const make = `select pg_create_logical_replication_slot('${other}', 'pgoutput', true)`
  for (const role of ['writer', 'consumer'] as const) expect(await refusal(clients[role], make)).toBe('42501')
  await owner.query(make.replace(', true', ''))
  const drop = `select pg_drop_replication_slot('${other}')`
  for (const role of ['writer', 'consumer'] as const) expect(await refusal(clients[role], drop)).toBe('42501')
  // What docs/threat-model.md says of the attribute REPLICATION: it is of the whole cluster.
  await clients.relay.query(drop)
})

base('a writer publishes, and knows nothing of what others have published', async () => {
  const { writer } = clients
  await writer.query("insert into outrider.outbox (stream, type, data) values ('orders', 'a', '{}')")
  await writer.query("select outrider.publish('orders', 'a', '{}', headers => '{\"a\": \"b\"}')")
  expect((await owner.query('select from outrider.outbox')).rowCount).toBe(2)
  expect(await refusal(writer, "insert into outrider.outbox (stream, type) values ('orders', 'a') returning id")).toBe(
    '42501',
  )
})

consumerTest.for([false, true])(
  'a worker does all its work as `outrider_consumer`: ordered %s',
  async (ordered, { env }) => {
    const role = `${env.database.name}_worker`
    await env.pool.query(`create role ${role} login password 'secret' in role outrider_consumer`)
    await env.pool.query(`grant insert on effect to ${role}; grant usage on sequence effect_seq_seq to ${role}`)
    const pool = new pg.Pool({ connectionString: env.database.urlAs({ user: role, password: 'secret' }), max: 20 })
    try {
      await env.append('things', [{ n: 1 }, { n: 2 }, { n: 3 }])
      const consumer = env.consumer({ db: pool, ordered, group: GROUP }).on(Happened, async (event, context) => {
        if (event.data.n === 2 && context.attempt === 1) throw new Error('not yet')
        await effect(event, context)
      })
      await consumer.start()
      await env.drained('things', 3)
      await until(async () => (await consumer.stats()).streams.every(({ pending }) => pending === 0))
      await consumer.stop()
      expect(env.logs.filter(({ level, code }) => level === 'error' || code === '42501')).toEqual([])
    } finally {
      await pool.end()
      await env.pool.query(`drop owned by ${role}; drop role ${role}`)
    }
  },
)
