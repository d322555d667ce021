import { readdir } from 'node:fs/promises'
import type pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ATTRIBUTES } from '../../src/event/names.js'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { createLineage, type Lineage } from '../../src/postgres/state/lineage.js'
import { createDatabase, type Database } from '../../testkit/services/index.js'

let database: Database
let owner: pg.Client
let lineage: Lineage
const clients: Record<'writer' | 'relay' | 'consumer', pg.Client> = {} as never
const logins: string[] = []

beforeAll(async () => {
  database = await createDatabase({ collation: 'da-DK' })
  owner = await database.connect()
  await migrate(owner)
  await owner.query("create publication outrider for table outrider.outbox with (publish = 'insert')")
  const slot = `outrider_${database.name}`
  lineage = await createLineage(owner, {
    slot,
    publication: 'outrider',
    source: '/shop',
    outboxTable: 'outrider.outbox',
  })
  for (const role of ['writer', 'relay', 'consumer'] as const) {
    const login = `${database.name}_${role}`
    await owner.query(`create role ${login} login password 'secret' in role outrider_${role}`)
    logins.push(login)
    clients[role] = await database.connect({ user: login, password: 'secret' })
  }
})

afterAll(async () => {
  for (const client of Object.values(clients)) await client.end()
  for (const login of logins) await owner?.query(`drop role ${login}`)
  await owner?.end()
  await database?.drop()
})

/** The name of the constraint, or else the SQLSTATE, that a statement is refused with. */
async function refusal(client: pg.Client, sql: string, values: unknown[] = []): Promise<string> {
  return client.query(sql, values).then(
    () => 'accepted',
    (error: pg.DatabaseError) => error.constraint ?? error.code ?? error.message,
  )
}

describe('every object', () => {
  test('every table has a primary key', async () => {
    const { rows } = await owner.query(
      `select relname from pg_class where relnamespace = 'outrider'::regnamespace and relkind in ('r', 'p')
       and not exists (select from pg_constraint where conrelid = pg_class.oid and contype = 'p')`,
    )
    expect(rows).toEqual([])
  })

  test('every table but the partitions, and every function, says what it is', async () => {
    const { rows } = await owner.query(
      `select oid::regclass::text as name from pg_class
       where relnamespace = 'outrider'::regnamespace and relkind in ('r', 'p', 'v') and not relispartition
         and obj_description(oid, 'pg_class') is null
       union all
       select oid::regprocedure::text from pg_proc
       where pronamespace = 'outrider'::regnamespace and obj_description(oid, 'pg_proc') is null`,
    )
    expect(rows).toEqual([])
  })

  test('every text but notes is compared bytewise, whatever the collation of the database', async () => {
    const { rows } = await owner.query(
      `select relname || '.' || attname as column
       from pg_attribute join pg_class as c on c.oid = attrelid
       where relnamespace = 'outrider'::regnamespace and relkind in ('r', 'p') and attnum > 0
         and atttypid = 'text'::regtype and attcollation <> '"C"'::regcollation
       order by 1`,
    )
    expect(rows.map(({ column }) => column)).toEqual(['incident.resolution', 'session.hostname', 'session.version'])
  })

  test('each role may do exactly this', async () => {
    const { rows } = await owner.query(
      `select grantee::regrole || ' ' || lower(privilege_type) || ' ' || string_agg(relname, ' ' order by relname) as may
       from pg_class, aclexplode(relacl)
       where relnamespace = 'outrider'::regnamespace and grantee <> relowner
       group by grantee, privilege_type
       union all
       select grantee::regrole || ' ' || lower(privilege_type) || ' ' || string_agg(proname, ' ' order by proname)
       from pg_proc, aclexplode(proacl)
       where pronamespace = 'outrider'::regnamespace and grantee <> proowner
       group by grantee, privilege_type
       union all
       select grantee::regrole || ' ' || lower(privilege_type) || ' ' || string_agg(relname || '.' || attname, ' ' order by attname)
       from pg_attribute join pg_class on pg_class.oid = attrelid, aclexplode(attacl)
       where relnamespace = 'outrider'::regnamespace
       group by grantee, privilege_type`,
    )
    expect(rows.map(({ may }) => may).sort()).toEqual([
      'outrider_consumer delete inbox worker',
      'outrider_consumer execute accept accept_many accept_ordered renew_leases',
      'outrider_consumer insert inbox subscription worker',
      'outrider_consumer select inbox subscription worker',
      'outrider_consumer update inbox.processed_at',
      'outrider_consumer update subscription worker',
      'outrider_relay delete checkpoint gap_stream head incident moved_event present repair request_event request_stream',
      'outrider_relay execute bucket bucket_seconds empty_bucket examine_bucket outbox_oid publication_state',
      'outrider_relay insert checkpoint consumer_group gap_stream head horizon incident moved_event present repair request request_event request_stream session stream',
      'outrider_relay select checkpoint consumer_group emptied gap_stream head horizon incident lineage migration moved_event outbox present rejected repair request request_event request_stream session stream',
      'outrider_relay update consumer_group gap_stream head horizon incident repair request request_stream stream',
      'outrider_relay update lineage.confirmed_lsn lineage.publication_state lineage.redis lineage.timeline',
      'outrider_writer execute bucket bucket_seconds publish uuid_v7 valid_headers',
      `outrider_writer insert ${['causation_id', 'correlation_id', 'created_at', 'data', 'headers', 'id', 'schema_version', 'stream', 'subject', 'type'].map((column) => `outbox.${column}`).join(' ')}`,
    ])
  })

  test('no one may do anything who was not granted a role', async () => {
    const { rows } = await owner.query(
      `select oid::regprocedure::text as name from pg_proc
       where pronamespace = 'outrider'::regnamespace
         and exists (select from aclexplode(coalesce(proacl, acldefault('f', proowner))) where grantee = 0)
       union all
       select oid::regclass::text from pg_class
       where relnamespace = 'outrider'::regnamespace and exists (select from aclexplode(relacl) where grantee = 0)`,
    )
    expect(rows).toEqual([])
  })
})

describe('a writer', () => {
  test('inserts an event, and the rest is by default', async () => {
    await clients.writer.query(
      "insert into outrider.outbox (stream, type, data) values ('orders', 'order.placed', '{\"a\" : 1}')",
    )
    const { rows } = await owner.query(
      `select id::text, stream, data::text, schema_version, headers::text, seq is not null as seq,
         txid = xmin::text::xid8 as own_txid, bucket between 0 and 7 as bucketed,
         created_at between clock_timestamp() - interval '1 minute' and clock_timestamp() as recent
       from outrider.outbox where type = 'order.placed'`,
    )
    expect(rows).toEqual([
      {
        id: expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/),
        stream: 'orders',
        data: '{"a" : 1}',
        schema_version: 1,
        headers: '{}',
        seq: true,
        own_txid: true,
        bucketed: true,
        recent: true,
      },
    ])
  })

  test('publishes by function, with every attribute, and gets the id', async () => {
    const { rows } = await clients.writer.query(
      `select outrider.publish('orders', 'order.paid', '{"total": 99}', subject => 'order-42', correlation_id => 'c',
         causation_id => 'd', headers => '{"traceparent": "00-1"}', schema_version => 3) as id`,
    )
    const stored = await owner.query('select * from outrider.outbox where id = $1', [rows[0].id])
    expect(stored.rows[0]).toMatchObject({
      stream: 'orders',
      type: 'order.paid',
      data: { total: 99 },
      subject: 'order-42',
      correlation_id: 'c',
      causation_id: 'd',
      headers: { traceparent: '00-1' },
      schema_version: 3,
    })
  })

  test('may choose the id, and leave out what is optional by null', async () => {
    const id = '0198f7f2-3a4b-7000-8000-000000000001'
    const { rows } = await clients.writer.query(
      `select outrider.publish('orders', 'order.chosen', id => $1, headers => null, schema_version => null) as id`,
      [id],
    )
    expect(rows[0].id).toBe(id)
    const stored = await owner.query('select data, headers, schema_version from outrider.outbox where id = $1', [id])
    expect(stored.rows).toEqual([{ data: null, headers: {}, schema_version: 1 }])
  })

  test.each([
    ['stream', 'a b', 'outbox_stream_letters_digits_dots_underscores_hyphens_max_200'],
    ['stream', '', 'outbox_stream_letters_digits_dots_underscores_hyphens_max_200'],
    ['stream', '.orders', 'outbox_stream_letters_digits_dots_underscores_hyphens_max_200'],
    ['stream', 'orders:1', 'outbox_stream_letters_digits_dots_underscores_hyphens_max_200'],
    ['stream', 'ordérs', 'outbox_stream_letters_digits_dots_underscores_hyphens_max_200'],
    ['stream', 'orders\n', 'outbox_stream_letters_digits_dots_underscores_hyphens_max_200'],
    ['stream', 'a'.repeat(201), 'outbox_stream_letters_digits_dots_underscores_hyphens_max_200'],
    ['stream', 'a'.repeat(200), 'accepted'],
    ['stream', 'outrider-x', 'outbox_stream_must_not_start_with_outrider'],
    ['stream', 'Outrider', 'accepted'],
    ['type', '', 'outbox_type_1_to_255_characters'],
    ['type', 'é'.repeat(255), 'accepted'],
    ['type', 'a'.repeat(256), 'outbox_type_1_to_255_characters'],
    ['subject', '', 'outbox_subject_1_to_1024_characters'],
    ['subject', 'a'.repeat(1025), 'outbox_subject_1_to_1024_characters'],
    ['correlation_id', '', 'outbox_correlation_id_1_to_255_characters'],
    ['causation_id', 'a'.repeat(256), 'outbox_causation_id_1_to_255_characters'],
    ['schema_version', 0, 'outbox_schema_version_at_least_1'],
    ['created_at', 'infinity', 'outbox_created_at_years_1_to_9999'],
    ['created_at', '0044-03-15 BC', 'outbox_created_at_years_1_to_9999'],
    ['created_at', '10000-01-01', 'outbox_created_at_years_1_to_9999'],
    ['data', '{"open":', '22P02'],
  ])('%s %j: %s', async (column, value, expected) => {
    const event = { stream: 'orders', type: 'order.placed', [column]: value }
    const columns = Object.keys(event)
    const sql = `insert into outrider.outbox (${columns}) values (${columns.map((_, index) => `$${index + 1}`)})`
    expect(await refusal(clients.writer, sql, Object.values(event))).toBe(expected)
  })

  const many = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, index) => [`h${index}`, 'x']))

  test.each([
    ['an empty object', '{ }', true],
    ['strings', '{"traceparent": "00", "x1": ""}', true],
    ['32 of them', JSON.stringify(many(32)), true],
    ['33 of them', JSON.stringify(many(33)), false],
    ['an array', '[]', false],
    ['a null', 'null', false],
    ['a number as value', '{"a": 1}', false],
    ['a null as value', '{"a": null}', false],
    ['a capital letter in a name', '{"Trace": "x"}', false],
    ['a letter beyond ASCII in a name', '{"å": "x"}', false],
    ['a name of 40', JSON.stringify({ ['a'.repeat(40)]: 'x' }), true],
    ['a name of 41', JSON.stringify({ ['a'.repeat(41)]: 'x' }), false],
    ['an empty name', '{"": "x"}', false],
    ['the same name twice', '{"a": "x", "a": "y"}', false],
    ['8 KiB', JSON.stringify({ a: 'x'.repeat(8192 - 8) }), true],
    ['more than 8 KiB', JSON.stringify({ a: 'x'.repeat(8192 - 7) }), false],
    ...[...ATTRIBUTES].map((name): [string, string, boolean] => [`the name ${name}`, `{"${name}": "x"}`, false]),
  ])('headers with %s', async (_, headers, allowed) => {
    const sql = "insert into outrider.outbox (stream, type, headers) values ('orders', 'x', $1)"
    expect(await refusal(clients.writer, sql, [headers])).toBe(
      allowed ? 'accepted' : 'outbox_headers_object_of_strings_lowercase_names_max_32_8kib',
    )
  })

  test("leaves Outrider's own columns to their defaults: their values are refused", async () => {
    for (const value of ['seq', 'txid', 'bucket']) {
      const sql = `insert into outrider.outbox (stream, type, ${value}) values ('a', 'b', '1')`
      expect([sql, await refusal(clients.writer, sql)]).toEqual([sql, '42501'])
    }
  })

  test('may do no more than that', async () => {
    for (const sql of [
      'select from outrider.outbox',
      'update outrider.outbox set type = type',
      'delete from outrider.outbox',
      'truncate outrider.outbox',
      "insert into outrider.outbox_0 (stream, type) values ('a', 'b')",
      "select outrider.accept('g', 's', 'i')",
      'select from outrider.lineage',
      'select from outrider.incident',
    ]) {
      expect([sql, await refusal(clients.writer, sql)]).toEqual([sql, '42501'])
    }
  })

  test('a role that was granted nothing sees nothing', async () => {
    await clients.writer.query('begin')
    await owner.query(`revoke outrider_writer from ${database.name}_writer`)
    await clients.writer.query('rollback')
    expect(await refusal(clients.writer, "insert into outrider.outbox (stream, type) values ('a', 'b')")).toBe('42501')
    await owner.query(`grant outrider_writer to ${database.name}_writer`)
  })
})

describe('a row of the outbox', () => {
  test('stays in its partition, because moving it would publish it again; its other columns may be updated', async () => {
    await owner.query("insert into outrider.outbox (stream, type, subject, bucket) values ('orders', 'moved', 'a', 1)")
    await owner.query("update outrider.outbox set subject = 'b', bucket = 1 where type = 'moved'")
    await expect(owner.query("update outrider.outbox set bucket = 2 where type = 'moved'")).rejects.toMatchObject({
      code: '23000',
      message: expect.stringContaining('must stay in its partition: moving it would publish its event again'),
    })
    const { rows } = await owner.query("select subject, bucket from outrider.outbox where type = 'moved'")
    expect(rows).toEqual([{ subject: 'b', bucket: 1 }])
  })
})

describe('the schema', () => {
  test('has a comment that names only commands that are there', async () => {
    const { rows } = await owner.query("select obj_description('outrider'::regnamespace) as comment")
    const named = [...rows[0].comment.matchAll(/`outrider ([a-z-]+)`/g)].map(([, name]) => name)
    expect(named).toEqual(['check', 'incidents'])
  })
})

describe('the functions', () => {
  test('uuid_v7 carries the time, and sorts by it within a session', async () => {
    const { rows } = await clients.writer.query(
      `select array_agg(id order by n)::text[] as ids, extract(epoch from clock_timestamp()) * 1000 as now
       from (select n, outrider.uuid_v7() as id from generate_series(1, 20000) as n offset 0) as made`,
    )
    const ids: string[] = rows[0].ids
    expect(new Set(ids).size).toBe(20_000)
    const millisecond = Number.parseInt(ids.at(-1)!.replaceAll('-', '').slice(0, 12), 16)
    expect(Math.abs(millisecond - Number(rows[0].now))).toBeLessThan(1000)
    // The clock reads microseconds; two in one of them may come in either order.
    const time = ids.map((id) => id.slice(0, 18))
    expect(time).toEqual(time.toSorted())
  })

  test('no search_path changes what they call', async () => {
    const client = await database.connect()
    await client.query(`create schema trap;
      create function trap.evil(json, json) returns json language plpgsql as $$ begin raise 'trapped'; end $$;
      create function trap.clock_timestamp() returns timestamptz language plpgsql as $$ begin raise 'trapped'; end $$;
      create function trap.gen_random_uuid() returns uuid language plpgsql as $$ begin raise 'trapped'; end $$;
      create function trap.json_each(json) returns json language plpgsql as $$ begin raise 'trapped'; end $$;
      create function trap.multiply(numeric, integer) returns numeric language plpgsql as $$ begin raise 'trapped'; end $$;
      create operator trap.* (leftarg = numeric, rightarg = integer, function = trap.multiply);
      set search_path = trap, pg_catalog`)
    await client.query(`select outrider.publish('orders', 'trap', headers => '{"a": "b"}')`)
    await client.query("select outrider.accept('g', 's', 'trap')")
    await client.query('drop schema trap cascade')
    await client.end()
  })

  test('publication_state changes with every change, also with one that was undone', async () => {
    const read = async () => (await owner.query("select outrider.publication_state('outrider') as state")).rows[0].state
    const states = [await read()]
    for (const sql of [
      'alter publication outrider drop table outrider.outbox',
      'alter publication outrider add table outrider.outbox',
      'alter publication outrider set (publish_via_partition_root = true)',
      'drop publication outrider',
      "create publication outrider for table outrider.outbox with (publish = 'insert')",
    ]) {
      await owner.query(sql)
      states.push(await read())
    }
    expect(new Set(states).size).toBe(states.length)
    expect(states[4]).toBeNull()
    expect(await read()).toBe(states[5])
  })
})

describe('the relay', () => {
  test('keeps its state', async () => {
    const { relay } = clients
    const session = '0198f7f2-3a4b-7000-8000-00000000000a'
    const position = '00000001-0000000000000001-00000000'
    await relay.query(
      `insert into outrider.session (session, lineage, hostname, pid, version, timeline) values ($1, $2, 'h', 1, '1', 1)`,
      [session, lineage.lineage],
    )
    await relay.query(
      `insert into outrider.head (lineage, stream_key, position, event_id, entry_id, session)
       values ($1, 'orders', $2, 'e', '1-1', $3)
       on conflict (lineage, stream_key) do update set position = excluded.position`,
      [lineage.lineage, position, session],
    )
    await relay.query('update outrider.lineage set confirmed_lsn = confirmed_lsn, timeline = 1 where lineage = $1', [
      lineage.lineage,
    ])
    await relay.query(
      `insert into outrider.checkpoint (lineage, lsn, snapshot) values ($1, '0/1', pg_current_snapshot())`,
      [lineage.lineage],
    )
    await relay.query('delete from outrider.checkpoint')
    await relay.query("insert into outrider.stream values ('partitioned', 4)")
    await relay.query("select count(*), outrider.publication_state('outrider') from outrider.outbox")
    await relay.query('select from outrider.rejected')
    await relay.query('select from outrider.migration')
  })

  test('may do no more than that', async () => {
    for (const sql of [
      "insert into outrider.outbox (stream, type) values ('a', 'b')",
      "select outrider.publish('a', 'b')",
      'delete from outrider.outbox',
      'delete from outrider.session',
      'delete from outrider.lineage',
      "update outrider.lineage set source = 'x'",
      'update outrider.lineage set retired_at = now()',
      'update outrider.session set pid = 1',
      'select from outrider.inbox',
      "insert into outrider.migration values (9, 'x', 'x')",
    ]) {
      expect([sql, await refusal(clients.relay, sql)]).toEqual([sql, '42501'])
    }
  })
})

describe('a consumer', () => {
  test('accepts an event once for each group', async () => {
    const accept = async (group: string) =>
      (await clients.consumer.query("select outrider.accept($1, '/shop', 'e1') as work", [group])).rows[0].work
    expect([await accept('billing'), await accept('billing'), await accept('mail')]).toEqual([true, false, true])
  })

  test('accepts it again when the first work was rolled back', async () => {
    const accept = async () =>
      (await clients.consumer.query("select outrider.accept('billing', '/shop', 'e2') as work")).rows
    await clients.consumer.query('begin')
    expect(await accept()).toEqual([{ work: true }])
    await clients.consumer.query('rollback')
    expect(await accept()).toEqual([{ work: true }])
  })

  test('waits for the one that is at work on it, and then leaves it', async () => {
    const { consumer } = clients
    const other = await database.connect({ user: `${database.name}_consumer`, password: 'secret' })
    await other.query('begin')
    await other.query("select outrider.accept('billing', '/shop', 'e3')")
    // Five seconds, whatever the session says.
    expect(await refusal(consumer, "select outrider.accept('billing', '/shop', 'e3')")).toBe('55P03')
    const waiting = consumer.query("select outrider.accept('billing', '/shop', 'e3') as work")
    await other.query('commit')
    expect((await waiting).rows).toEqual([{ work: false }])
    await other.end()
  })

  test('prunes, and may do no more than that', async () => {
    await clients.consumer.query("delete from outrider.inbox where processed_at < clock_timestamp() - interval '1 day'")
    for (const sql of [
      'update outrider.inbox set id = id',
      "insert into outrider.outbox (stream, type) values ('a', 'b')",
      'select from outrider.outbox',
      'select from outrider.head',
    ]) {
      expect([sql, await refusal(clients.consumer, sql)]).toEqual([sql, '42501'])
    }
  })
})

test('each migration has a number of its own, without a hole', async () => {
  const files = (await readdir(new URL('../../sql/', import.meta.url))).sort()
  expect(files.map((file) => Number(file.slice(0, 3)))).toEqual(files.map((_, index) => index + 1))
})
