import type pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import { sqlState } from '../client/transaction.js'

export interface FoundSlot {
  plugin: string | null
  database: string | null
  active: boolean
  activePid: number | null
  walStatus: string | null
  /** Whether it belongs to the database that the client is connected to. */
  here: boolean
}

/** The replication slot of this name, anywhere in the cluster. */
export async function findSlot(client: pg.ClientBase, slot: string): Promise<FoundSlot | undefined> {
  const { rows } = await client.query<FoundSlot>(
    `select plugin, database, active, active_pid as "activePid", wal_status as "walStatus",
       coalesce(database = current_database(), false) as here
     from pg_replication_slots where slot_name = $1`,
    [slot],
  )
  return rows[0]
}

/** Creates a logical slot for pgoutput. `lockTimeout`, in ms, bounds the wait for the write transactions open now; 0: nothing does. */
export async function createSlot(client: pg.ClientBase, slot: string, lockTimeout = 10_000): Promise<void> {
  const { rows } = await client.query<{ version: number }>(
    "select current_setting('server_version_num')::integer as version",
  )
  const failover = rows[0]!.version >= 170_000 ? ', failover => true' : ''
  // A session-wide setting: Postgres refuses to create a slot in a transaction that has written.
  await client.query("select set_config('lock_timeout', $1, false)", [`${lockTimeout}ms`])
  try {
    await client.query(
      `select pg_create_logical_replication_slot($1, 'pgoutput', temporary => false, twophase => false${failover})`,
      [slot],
    )
  } catch (error) {
    throw await explain(client, error, slot, lockTimeout)
  } finally {
    await client.query('reset lock_timeout').catch(() => undefined)
  }
}

async function explain(client: pg.ClientBase, error: unknown, slot: string, lockTimeout: number): Promise<unknown> {
  switch (sqlState(error)) {
    case '55P03':
      return new OutriderError(
        `Slot ${slot} could not be created within ${lockTimeout} ms: Postgres first waits for every open write transaction ` +
          `of the cluster to end. Open now: ${await describeOpenWriters(client)}. End them, or wait, and run the command again; ` +
          'it continues from here.',
        { cause: error },
      )
    case '42501':
      return new OutriderError(
        `Slot ${slot} could not be created: the role lacks REPLICATION. As an administrator: ` +
          '`alter role <role> replication`; on Amazon RDS `grant rds_replication to <role>`. Then run the command again.',
        { cause: error },
      )
    case '53400':
      return new OutriderError(
        `Slot ${slot} could not be created: every replication slot is in use. Raise max_replication_slots and restart ` +
          'Postgres, or drop a slot that is not needed (`select * from pg_replication_slots`). Then run the command again.',
        { cause: error },
      )
    case '42710':
      return new OutriderError(`Slot ${slot} could not be created: another client has just created one of this name.`, {
        cause: error,
      })
    default:
      return error
  }
}

/** Who holds a transaction id, for a person. Locks are visible to all; what another role's session does is not. */
export async function describeOpenWriters(client: pg.ClientBase): Promise<string> {
  const { rows } = await client.query<{ what: string }>(
    `select format('pid %s (%s, database %s, open for %s)', pid, coalesce(nullif(application_name, ''), usename, 'unknown'),
         datname, coalesce(date_trunc('second', clock_timestamp() - xact_start)::text, 'unknown')) as what
       from pg_locks join pg_stat_activity using (pid)
       where locktype = 'transactionid' and mode = 'ExclusiveLock' and granted
     union all
     select format('prepared transaction %s (database %s, open for %s)', gid, database,
         date_trunc('second', clock_timestamp() - prepared))
       from pg_prepared_xacts`,
  )
  return rows.map(({ what }) => what).join('; ') || 'none any more'
}

/** Drops a slot that no one reads; one that is gone already is fine. `condition`: an SQL expression; where it is false, nothing is done. */
export async function dropSlot(client: pg.ClientBase, slot: string, condition = 'true'): Promise<void> {
  await client.query(
    `select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1 and ${condition}`,
    [slot],
  )
}

/** Throws an OutriderError when the slot must not be dropped from here: it is in use, or belongs to another database. */
export function requireDroppable(name: string, slot: FoundSlot): void {
  if (!slot.here) {
    throw new OutriderError(
      `Slot ${name} belongs to ${slot.database ? `database ${slot.database}` : 'a standby'}, not to this one, and is left ` +
        'alone. Slot names are shared by the whole cluster: give this database one of its own in OUTRIDER_SLOT.',
    )
  }
  if (slot.active) {
    throw new OutriderError(`Slot ${name} is in use by process ${slot.activePid} of the server. Stop the relay first.`)
  }
}

/** A slot that no lineage of this database accounts for: what was read through it is unknown here. */
export function foreignSlot(name: string, slot: FoundSlot): OutriderError {
  const owner = slot.database ? `database ${slot.database}, plugin ${slot.plugin}` : 'physical'
  return new OutriderError(
    `Expected the slot name ${name} to be free, found a slot of that name that Outrider did not make here (${owner}). ` +
      'Slot names are shared by the whole cluster: choose another in OUTRIDER_SLOT, or, if that slot is not needed, ' +
      `\`select pg_drop_replication_slot('${name}')\`.`,
  )
}
