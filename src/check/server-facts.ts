import type pg from 'pg'
import { readSilentStandbySlots, type SilentStandbySlot } from '../postgres/replication/standby-slots.js'
import { PROVIDER_ROLES, type Provider } from './provider.js'

/** A server of Postgres as the role of the relay sees it. */
export interface ServerFacts {
  version: number
  versionText: string
  database: string
  role: string
  provider: Provider | undefined
  inRecovery: boolean
  encoding: string
  settings: Record<string, SettingFact>
  slots: number
  senders: number
  standbys: { present: boolean; names: string[] }
  /** Named in synchronized_standby_slots, and confirming nothing. */
  silentStandbySlots: SilentStandbySlot[]
  prepared: { gid: string; database: string; owner: string; seconds: number }[]
  /** Open transactions that have written; `seconds` is null where the role may not see it. */
  writers: { pid: number; database: string | null; application: string; seconds: number | null }[]
  /** The process that answers statements, and the one that the connection was told of. */
  backend: { answering: number; announced: number | undefined }
}

export interface SettingFact {
  /** In the setting's base unit. */
  value: string
  source: string
  pendingRestart: boolean
}

/** What became of a replication connection: the server at its other end, or why there is none. */
export type ReplicationProbe = { systemId: string; timeline: number } | { code: string; message: string }

const SETTINGS = [
  'wal_level',
  'effective_wal_level',
  'max_replication_slots',
  'max_wal_senders',
  'wal_sender_timeout',
  'max_slot_wal_keep_size',
  'idle_replication_slot_timeout',
  'synchronous_standby_names',
  'synchronized_standby_slots',
  'transaction_timeout',
  'idle_session_timeout',
  'default_transaction_read_only',
]

export async function readServer(client: pg.Client): Promise<ServerFacts> {
  const one = async <T extends pg.QueryResultRow>(sql: string, values: unknown[] = []): Promise<T> =>
    (await client.query<T>(sql, values)).rows[0]!
  const many = async <T extends pg.QueryResultRow>(sql: string, values: unknown[] = []): Promise<T[]> =>
    (await client.query<T>(sql, values)).rows

  const server = await one<
    Pick<ServerFacts, 'version' | 'versionText' | 'database' | 'role' | 'inRecovery' | 'encoding'>
  >(
    `select current_setting('server_version_num')::integer as version, current_setting('server_version') as "versionText",
       current_database() as database, current_user as role, pg_is_in_recovery() as "inRecovery",
       current_setting('server_encoding') as encoding`,
  )
  const settings = await many<SettingFact & { name: string }>(
    `select name, setting as value, source, pending_restart as "pendingRestart" from pg_settings where name = any ($1)`,
    [SETTINGS],
  )
  const providers = await many<{ name: string }>('select rolname as name from pg_roles where rolname = any ($1)', [
    Object.keys(PROVIDER_ROLES),
  ])
  const { slots, senders } = await one<{ slots: number; senders: number }>(
    `select (select count(*) from pg_replication_slots)::integer as slots,
       (select count(*) from pg_stat_replication)::integer as senders`,
  )
  // Whoever streams without a logical slot is a standby, or a backup that takes WAL along; a slot of its own tells of
  // one that is away. Names are shown to those who may see the sessions of others.
  const standbys = await many<{ name: string | null }>(
    `select application_name as name from pg_stat_replication
       where pid <> all (select active_pid from pg_replication_slots where slot_type = 'logical' and active)
         and state is distinct from 'backup'
     union all
     select null from pg_replication_slots where slot_type = 'physical' and not temporary and not active`,
  )
  return {
    ...server,
    provider: providers[0] && PROVIDER_ROLES[providers[0].name],
    settings: Object.fromEntries(settings.map(({ name, ...setting }) => [name, setting])),
    slots,
    senders,
    standbys: { present: standbys.length > 0, names: standbys.flatMap(({ name }) => (name ? [name] : [])) },
    silentStandbySlots: await readSilentStandbySlots(client),
    prepared: await many(
      `select gid, database, owner, extract(epoch from clock_timestamp() - prepared)::float8 as seconds
       from pg_prepared_xacts order by prepared`,
    ),
    writers: await many(
      `select pid, datname as database, coalesce(application_name, '') as application,
         extract(epoch from clock_timestamp() - xact_start)::float8 as seconds
       from pg_locks join pg_stat_activity using (pid)
       where locktype = 'transactionid' and mode = 'ExclusiveLock' and granted
       order by xact_start`,
    ),
    backend: {
      answering: (await one<{ pid: number }>('select pg_backend_pid() as pid')).pid,
      announced: (client as { processID?: number }).processID ?? undefined,
    },
  }
}
