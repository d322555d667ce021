import type pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import { inTransaction, sqlState } from '../client/transaction.js'
import { type Applied, classifyHistory, describeForeign, readHistory } from '../state/history.js'
import { type Migration, readMigrations } from './migration.js'

const INBOX = 'inbox'

/** How long a statement may wait for a lock: behind one that waits longer, the application's own statements queue. */
const LOCK_TIMEOUT = '5s'

/** Two setups of one database take turns. Any constant does; this one reads `outr` in ASCII, and 1. */
const ADVISORY_LOCK = [0x6f757472, 1]

export interface Migrated {
  /** Names of what was applied. */
  applied: string[]
  /** Names of what a newer version has applied before; it serves this one, and was left alone. */
  newer: string[]
}

/**
 * Brings the schema `outrider` to this version, each migration in a transaction of its own; what is there already stays.
 * `only: 'inbox'` is for a workers' database, which needs no outbox.
 *
 * Throws an OutriderError, and changes nothing, when an applied migration differs from the one of this version, or when a newer
 * version has set up the database and what it applied does not serve this one.
 */
export async function migrate(
  client: pg.ClientBase,
  options: { only?: 'inbox'; migrations?: Migration[] } = {},
): Promise<Migrated> {
  const known = options.migrations ?? (await readMigrations())
  const wanted = options.only === INBOX ? known.filter(({ name }) => name.endsWith(`-${INBOX}`)) : known
  const applied: string[] = []
  for (const migration of wanted) {
    if (await applyOnce(client, migration, known)) applied.push(migration.name)
  }
  return { applied, newer: classifyHistory(await historyOf(client), known).newer }
}

async function applyOnce(client: pg.ClientBase, migration: Migration, known: Migration[]): Promise<boolean> {
  try {
    return await inTransaction(client, async () => {
      // The search_path reaches only what a file forgot to qualify.
      await client.query(`set local lock_timeout = '${LOCK_TIMEOUT}';
        set local statement_timeout = 0;
        set local client_min_messages = warning;
        set local search_path = ''`)
      await client.query('select pg_advisory_xact_lock($1, $2)', ADVISORY_LOCK)
      await client.query(BOOKKEEPING)
      const history = await historyOf(client)
      refuseForeign(history, known)
      if (history.some(({ version }) => version === migration.version)) return false
      await client.query(migration.sql)
      await client.query('insert into outrider.migration (version, name, checksum, serves) values ($1, $2, $3, $4)', [
        migration.version,
        migration.name,
        migration.checksum,
        migration.serves,
      ])
      return true
    })
  } catch (error) {
    throw explain(error, migration)
  }
}

const historyOf = async (client: pg.ClientBase): Promise<Applied[]> =>
  (await readHistory(async (sql) => (await client.query(sql)).rows)) ?? []

function refuseForeign(applied: Applied[], known: Migration[]): void {
  const { foreign } = classifyHistory(applied, known)
  if (foreign) throw new OutriderError(describeForeign(foreign))
}

/** Guarded by a look, because `if not exists` asks for the privilege to create even where nothing is to be created. */
const BOOKKEEPING = `do $$
begin
  if to_regnamespace('outrider') is null then
    create schema outrider;
  end if;
  if to_regclass('outrider.migration') is null then
    create table outrider.migration (
      version integer not null constraint migration_pkey primary key,
      name text collate "C" not null,
      checksum text collate "C" not null,
      applied_at timestamptz not null default clock_timestamp()
    );
    comment on table outrider.migration is 'Which of Outrider''s migrations were applied, by outrider setup.';
    comment on column outrider.migration.checksum is 'SHA-256 of the file as it was applied.';
    revoke all on outrider.migration from public;
  end if;
  -- It came later. The first migration is there wherever a relay runs, so this is committed before anything that takes long.
  if not exists (
    select from pg_catalog.pg_attribute
    where attrelid = 'outrider.migration'::regclass and attname = 'serves' and not attisdropped
  ) then
    alter table outrider.migration add column serves integer;
    comment on column outrider.migration.serves is
      'A release that has the migrations up to this one can work with the schema as this row''s leaves it; null: the one before.';
  end if;
end
$$`

function explain(error: unknown, { name }: Migration): unknown {
  const message = error instanceof Error ? error.message : String(error)
  switch (sqlState(error)) {
    case '55P03':
      return new OutriderError(
        `Migration ${name} waited ${LOCK_TIMEOUT} for a lock and gave up, so that nothing queues behind it; nothing was ` +
          'changed. Another setup, or a long transaction on the schema outrider, is running: run `outrider setup` again.',
        { cause: error },
      )
    case '42501':
      return new OutriderError(
        `Migration ${name} lacks a privilege: ${message}. Setup needs a role that owns the schema outrider, or has CREATE ` +
          'on the database; and CREATEROLE, unless an administrator has run `create role outrider_writer nologin; ' +
          'create role outrider_relay nologin; create role outrider_consumer nologin`.',
        { cause: error },
      )
    default:
      return error
  }
}
