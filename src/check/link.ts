import { type PostgresUrl, parsePostgresUrl } from '../config/postgres-url.js'
import { blocker, type Finding, inConfiguration, warning } from './finding.js'
import type { ReplicationProbe, ServerFacts } from './server-facts.js'

/** Said by a pooler to what only the server itself understands. https://www.pgbouncer.org/config.html */
const POOLER = '08P01'

/**
 * What stands between here and the server. A pooler makes up the process that it announces, refuses replication, or
 * leads it elsewhere. Pure.
 */
export function assessLink(
  link: ReplicationProbe,
  { backend, senders, settings }: ServerFacts,
  identity: { systemId: string } | undefined,
  rights: { replication: boolean },
): Finding | undefined {
  const disguised = backend.announced !== undefined && backend.announced !== backend.answering
  if (!('code' in link)) {
    if (identity && identity.systemId !== link.systemId) {
      return pooler(`statements reach system ${identity.systemId}, replication reaches system ${link.systemId}`)
    }
    if (!disguised) return undefined
    return warning({ ...POOLED, is: 'something in between answers for the server, though it lets replication through' })
  }
  if (link.code === POOLER || (disguised && rights.replication)) {
    return pooler(`a replication connection is refused: ${link.message}`)
  }
  const foreseen = link.code === '42501' || !rights.replication || senders >= Number(settings.max_wal_senders?.value)
  if (foreseen) return undefined
  return blocker({
    id: 'replication-refused',
    is: `a replication connection is refused: ${link.message}`,
    expected: 'one that is let in like any other connection to this database',
    why: 'the relay reads WAL through it',
    fix: [
      {
        how: 'In pg_hba.conf, or wherever connections are limited',
        text: 'host <database> <role> <address> scram-sha-256',
      },
    ],
  })
}

const POOLED = {
  id: 'pooler',
  expected: 'a direct connection',
  why: "the relay's lock and stream live on one connection of the server itself",
  fix: [inConfiguration('OUTRIDER_POSTGRES_URL=postgres://<the host and port of Postgres itself>/…')],
}

const pooler = (is: string): Finding => blocker({ ...POOLED, is })

/** The refusal of an ordinary connection, where only a pooler speaks so; undefined for any other. */
export const pooledRefusal = (cause: unknown): Finding | undefined => {
  const { code, message } = (cause ?? {}) as { code?: string; message?: string }
  return code === POOLER ? pooler(`the connection is refused: ${message}`) : undefined
}

export const placeOf = (url: string): string => {
  const { host, port, database }: PostgresUrl = parsePostgresUrl(url)
  return host.startsWith('/') ? `${host}, database ${database}` : `${host}:${port}, database ${database}`
}
