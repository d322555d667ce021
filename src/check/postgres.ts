import type pg from 'pg'
import { OutriderError } from '../base/failure.js'
import type { Config } from '../config/schema.js'
import { connectPostgres } from '../postgres/client/connect.js'
import { withDeadline } from './deadline.js'
import type { Finding } from './finding.js'
import { assessLink, placeOf, pooledRefusal } from './link.js'
import { tryReplication } from './replication.js'
import { assessKind, assessServer, type BeforeSetup } from './server.js'
import { readServer } from './server-facts.js'
import { assessGiven, assessSetup } from './setup.js'
import { readSetup } from './setup-facts.js'

export interface PostgresReport {
  title: string
  findings: Finding[]
  /** Keys of streams that were published to; none where only what comes before setup matters. */
  streams: string[]
}

/**
 * Reads everything that matters over two connections, changes nothing, and judges it. With `before`, leaves out what
 * `outrider setup` brings, whether it has run or not. Throws an OutriderError where it cannot.
 */
export async function checkPostgres(config: Config, timeout: number, before?: BeforeSetup): Promise<PostgresReport> {
  const address = placeOf(config.postgres.url)
  const place = `Postgres at ${address}`
  const client = await connectPostgres(config.postgres, 'outrider check').catch((error: OutriderError) => {
    const finding = pooledRefusal(error.cause)
    if (!finding) throw error
    return finding
  })
  if ('level' in client) return { title: place, findings: [client], streams: [] }
  try {
    return await withDeadline(timeout, place, look(client, config, address, before))
  } catch (error) {
    if (error instanceof OutriderError) throw error
    throw new OutriderError(`${place} could not be checked: ${(error as Error).message}.`, { cause: error })
  } finally {
    // Not waited for: a frozen server would not take leave.
    client.end().catch(() => {})
  }
}

async function look(
  client: pg.Client,
  config: Config,
  address: string,
  before: BeforeSetup | undefined,
): Promise<PostgresReport> {
  const server = await readServer(client)
  const title = `PostgreSQL ${server.versionText} at ${address}, role ${server.role}`
  const unfit = assessKind(server)
  if (unfit) return { title, findings: [unfit], streams: [] }
  const setup = await readSetup(client, config)
  const link = await tryReplication(config.postgres)
  const between = assessLink(link, server, setup.identity, setup.rights)
  const slot = { name: config.slot, exists: setup.slot?.here === true, active: setup.slot?.active === true }
  const findings = [
    ...(between ? [between] : []),
    ...assessServer(server, slot, before),
    ...assessGiven(setup, server, link, config),
    ...(before ? [] : assessSetup(setup, server, config)),
  ]
  return { title, findings, streams: before ? [] : setup.streams }
}
