import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import type pg from 'pg'
import { Failure } from '../failure.js'
import { inTransaction, sqlState } from './transaction.js'

const FOLDER = new URL('../../sql/', import.meta.url)
const FILE_NAME = /^(\d{3})-([a-z-]+)\.sql$/
const INBOX = 'inbox'

/** How long a statement may wait for a lock: behind one that waits longer, the application's own statements queue. */
const LOCK_TIMEOUT = '5s'

/** Two setups of one database take turns. Any constant does; this one reads `outr` in ASCII, and 1. */
const ADVISORY_LOCK = [0x6f757472, 1]

export interface Migration {
  version: number
  /** The file's name without its extension: `001-outbox`. */
  name: string
  sql: string
  checksum: string
}

/** The migrations of this version of Outrider, in order. */
export async function readMigrations(folder: URL = FOLDER): Promise<Migration[]> {
  const files = (await readdir(folder)).filter((file) => FILE_NAME.test(file)).sort()
  return Promise.all(
    files.map(async (file) => {
      const sql = (await readFile(new URL(file, folder), 'utf8')).replaceAll('\r\n', '\n')
      return {
        version: Number(file.slice(0, 3)),
        name: file.slice(0, -'.sql'.length),
        sql,
        checksum: createHash('sha256').update(sql).digest('hex'),
      }
    }),
  )
}

/**
 * Brings the schema `outrider` to this version, each migration in a transaction of its own; what is there already stays.
 * `only: 'inbox'` is for a workers' database, which needs no outbox. Returns the names of what was applied.
 *
 * Throws a Failure, and changes nothing, when an applied migration differs from the one of this version or when the
 * database was set up by a newer one.
 */
export async function migrate(
  client: pg.ClientBase,
  options: { only?: 'inbox'; migrations?: Migration[] } = {},
): Promise<{ applied: string[] }> {
  const known = options.migrations ?? (await readMigrations())
  const wanted = options.only === INBOX ? known.filter(({ name }) => name.endsWith(`-${INBOX}`)) : known
  const applied: string[] = []
  for (const migration of wanted) {
    if (await applyOnce(client, migration, known)) applied.push(migration.name)
  }
  return { applied }
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
      const { rows } = await client.query<AppliedRow>(
        'select version, name, checksum from outrider.migration order by version',
      )
      refuseForeignHistory(rows, known)
      if (rows.some(({ version }) => version === migration.version)) return false
      await client.query(migration.sql)
      await client.query('insert into outrider.migration (version, name, checksum) values ($1, $2, $3)', [
        migration.version,
        migration.name,
        migration.checksum,
      ])
      return true
    })
  } catch (error) {
    throw explain(error, migration)
  }
}

interface AppliedRow {
  version: number
  name: string
  checksum: string
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
end
$$`

function refuseForeignHistory(applied: AppliedRow[], known: Migration[]): void {
  for (const { version, name, checksum } of applied) {
    const ours = known.find((migration) => migration.version === version)
    if (!ours) {
      throw new Failure(
        `Expected a database that this version of Outrider knows (migrations up to ${known.at(-1)?.name}), ` +
          `found migration ${name}. It was set up by a newer version: use that one, or a later one.`,
      )
    }
    if (ours.checksum !== checksum) {
      throw new Failure(
        `Expected migration ${ours.name} as this version of Outrider has it (SHA-256 ${ours.checksum.slice(0, 12)}…), ` +
          `found that ${name} was applied with another content (${checksum.slice(0, 12)}…). ` +
          'Use the release that set up this database, or compare its sql/ folder with the schema before you go on.',
      )
    }
  }
}

function explain(error: unknown, { name }: Migration): unknown {
  const message = error instanceof Error ? error.message : String(error)
  switch (sqlState(error)) {
    case '55P03':
      return new Failure(
        `Migration ${name} waited ${LOCK_TIMEOUT} for a lock and gave up, so that nothing queues behind it; nothing was ` +
          'changed. Another setup, or a long transaction on the schema outrider, is running: run `outrider setup` again.',
        { cause: error },
      )
    case '42501':
      return new Failure(
        `Migration ${name} lacks a privilege: ${message}. Setup needs a role that owns the schema outrider, or has CREATE ` +
          'on the database; and CREATEROLE, unless an administrator has run `create role outrider_writer nologin; ' +
          'create role outrider_relay nologin; create role outrider_consumer nologin`.',
        { cause: error },
      )
    default:
      return error
  }
}
