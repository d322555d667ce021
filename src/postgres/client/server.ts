import type pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import { canDecode, decodableLevels } from '../replication/wal-level.js'

interface Settings {
  version: number
  version_text: string
  in_recovery: boolean
  encoding: string
  wal_level: string
  effective_wal_level: string | null
}

/** Throws an OutriderError unless the server runs a version that Outrider knows and takes writes. */
export async function requireServer(client: pg.ClientBase): Promise<void> {
  const { version, version_text, in_recovery } = await settings(client)
  if (version < 150_000) {
    throw new OutriderError(`Expected PostgreSQL 15 or later, found ${version_text}. Upgrade the server.`)
  }
  if (in_recovery) {
    throw new OutriderError(
      'Expected a primary, found a standby (pg_is_in_recovery() is true). Give the URL of the primary.',
    )
  }
}

/** Throws an OutriderError unless events can be decoded from the server's WAL as their producers wrote them. */
export async function requireDecoding(client: pg.ClientBase): Promise<void> {
  const { version, encoding, wal_level, effective_wal_level } = await settings(client)
  if (encoding !== 'UTF8') {
    throw new OutriderError(
      `Expected a database in UTF8, found ${encoding}: payloads could not be published as they were written. ` +
        "Create the database with `create database … encoding 'UTF8' template template0`.",
    )
  }
  if (!canDecode({ version, configured: wal_level, effective: effective_wal_level ?? undefined })) {
    throw new OutriderError(
      `Expected wal_level = ${decodableLevels(version)}, found ${wal_level}. As an administrator: \`alter system set wal_level = 'logical'\`, then ` +
        'restart Postgres. On a managed service set its parameter (Amazon RDS: rds.logical_replication = 1; ' +
        'Cloud SQL: cloudsql.logical_decoding = on) and restart.',
    )
  }
}

/** As `server_version_num`: 180004. */
export async function serverVersion(client: pg.ClientBase): Promise<number> {
  const { rows } = await client.query<{ version: number }>(
    "select current_setting('server_version_num')::integer as version",
  )
  return rows[0]!.version
}

async function settings(client: pg.ClientBase): Promise<Settings> {
  const { rows } = await client.query<Settings>(
    `select current_setting('server_version_num')::integer as version, current_setting('server_version') as version_text,
       pg_is_in_recovery() as in_recovery, current_setting('server_encoding') as encoding,
       current_setting('wal_level') as wal_level, current_setting('effective_wal_level', true) as effective_wal_level`,
  )
  return rows[0]!
}
