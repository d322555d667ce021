import type pg from 'pg'
import { parsePostgresUrl } from '../config/postgres-url.js'
import type { PostgresConfig } from '../config/schema.js'
import { withReader } from './postgres.js'

/** A database with an inbox. */
export interface InboxPlace {
  /** For a person: host, port and database. */
  name: string
  config: PostgresConfig
}

/** An inbox as it stands, or why it does not tell. */
export type InboxStatus = { place: string } & (
  | { bytes: number; estimatedRows: number; subscriptions: { group: string; stream: string }[] }
  | { problem: string; unreachable: boolean }
)

const MAX_SUBSCRIPTIONS = 20_000

/** Those of the configured database, which may have none, and of `--inbox`. */
export function inboxPlaces(own: PostgresConfig, urls: readonly string[]): InboxPlace[] {
  return [
    { name: placeOf(own.url), config: own },
    ...urls.map((url) => ({ name: placeOf(url), config: { url, connectTimeout: own.connectTimeout } })),
  ]
}

const placeOf = (url: string): string => {
  const { host, port, database } = parsePostgresUrl(url)
  return `${host.startsWith('/') ? host : `${host}:${port}`}/${database}`
}

export const mayReadInbox = async (client: pg.ClientBase): Promise<'yes' | 'missing' | 'denied'> => {
  const { rows } = await client.query<{ may: boolean | null }>(
    "select has_table_privilege(to_regclass('outrider.inbox'), 'select') as may",
  )
  const may = rows[0]?.may
  return may === true ? 'yes' : may === false ? 'denied' : 'missing'
}

export async function readInbox({ name, config }: InboxPlace): Promise<InboxStatus> {
  try {
    return await withReader(config, 'outrider status', async (client) => {
      const may = await mayReadInbox(client)
      if (may !== 'yes') return { place: name, problem: PROBLEMS[may], unreachable: false }
      const size = await client.query<{ bytes: number; estimatedRows: number }>(
        `select pg_total_relation_size(oid)::float8 as bytes, greatest(reltuples, 0)::float8 as "estimatedRows"
         from pg_class where oid = 'outrider.inbox'::regclass`,
      )
      const { rows } = await client.query<{ group: string; stream: string }>(
        `select consumer_group as group, stream_key as stream from outrider.subscription limit ${MAX_SUBSCRIPTIONS}`,
      )
      return { place: name, ...size.rows[0]!, subscriptions: rows }
    })
  } catch (error) {
    return { place: name, problem: (error as Error).message, unreachable: true }
  }
}

export const PROBLEMS = {
  missing: 'no table outrider.inbox',
  denied: 'the role may not read outrider.inbox: grant it outrider_consumer',
}
