import pg from 'pg'
import type { PostgresConfig } from '../config/schema.js'
import { postgresOptions } from '../postgres/client/connect.js'
import type { ReplicationProbe } from './server-facts.js'

/**
 * Opens a replication connection as the relay will, asks it who it is, and closes it. It never streams, so no one waits
 * for it, and no slot is touched.
 */
export async function tryReplication(config: PostgresConfig): Promise<ReplicationProbe> {
  const options = await postgresOptions(config, 'outrider check')
  const client = new pg.Client({ ...options, replication: 'database' } as pg.ClientConfig)
  client.on('error', () => {})
  try {
    await client.connect()
    const { rows } = await client.query('IDENTIFY_SYSTEM')
    return { systemId: String(rows[0]?.systemid), timeline: Number(rows[0]?.timeline) }
  } catch (error) {
    const { code = '', message } = error as { code?: string; message: string }
    return { code, message }
  } finally {
    await client.end().catch(() => {})
  }
}
