import type pg from 'pg'
import { OutriderError } from '../base/failure.js'
import { NO_TRANSACTION_TIMEOUT } from '../postgres/client/connect.js'
import { currentLineage, type Lineage } from '../postgres/state/lineage.js'
import { requireConfiguredTable } from '../relay/table-check.js'
import type { Context } from './command.js'

/** The lineage of the configured slot and table, over a connection to the primary, whose statements may take minutes from here on. */
export async function lineageOf(postgres: pg.Client, { config }: Context): Promise<Lineage> {
  const { rows } = await postgres.query('select pg_is_in_recovery() as standby')
  if (rows[0].standby) {
    throw new OutriderError(
      'Expected a primary of Postgres, found a standby: it may lack rows. Connect to the primary.',
    )
  }
  const lineage = await currentLineage(postgres, config.slot)
  if (!lineage) {
    throw new OutriderError(
      `Expected a lineage of slot ${config.slot}, found none: nothing was set up to be published. Is OUTRIDER_SLOT the same as that of the relay?`,
    )
  }
  requireConfiguredTable(config.outbox, lineage)
  // Each statement is short; between two, the streams may take their time.
  await postgres.query(
    `set idle_in_transaction_session_timeout = 0; set idle_session_timeout = 0; set statement_timeout = '10min'; ${NO_TRANSACTION_TIMEOUT}`,
  )
  return lineage
}
