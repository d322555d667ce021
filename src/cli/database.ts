import type pg from 'pg'
import { ExitCode, OutriderError } from '../base/failure.js'
import { connectPostgres } from '../postgres/client/connect.js'
import { sqlState } from '../postgres/client/transaction.js'
import type { Context } from './command.js'

/** Runs a command's work on a connection of its own, and says for a person what Postgres refused. */
export async function withDatabase(
  { config }: Context,
  command: string,
  work: (client: pg.Client) => Promise<ExitCode>,
): Promise<ExitCode> {
  const client = await connectPostgres(config.postgres, command)
  try {
    return await work(client)
  } catch (error) {
    throw explain(error, command)
  } finally {
    await client.end().catch(() => undefined)
  }
}

function explain(error: unknown, command: string): unknown {
  if (error instanceof OutriderError || !(error instanceof Error)) return error
  switch (sqlState(error)) {
    case '3F000':
    // Of ping in a workers' database, which has no outbox.
    case '42883':
    case '42P01':
    case '42703':
      return new OutriderError(
        `Expected Outrider's schema in this database, found that it is missing or incomplete: ${error.message}. ` +
          'Check the database in the URL; `outrider setup` creates or completes it.',
        { cause: error },
      )
    case '42501':
      return new OutriderError(
        `\`${command}\` lacks a privilege: ${error.message}. Run it as the role that owns the schema outrider (and a mapped ` +
          'outbox table); to create a publication it needs CREATE on the database, too.',
        { cause: error },
      )
    case '55P03':
      return new OutriderError(
        `\`${command}\` waited for a lock and gave up, so that nothing queues behind it: ${error.message}. ` +
          'A long transaction is in the way (`select * from pg_stat_activity where xact_start is not null`). Try again later.',
        { cause: error },
      )
    default:
      return BROKEN.test(sqlState(error) ?? error.message) ? unreachable(error) : error
  }
}

/** Connection exceptions, shutdowns, socket errors, and what `pg` says without any code. */
const BROKEN = /^(08|57P|E[A-Z]+$|Connection terminated)/

const unreachable = (error: Error): OutriderError =>
  new OutriderError(
    `The connection to Postgres broke: ${error.message}. Finished work is kept; run the command again.`,
    {
      cause: error,
      exitCode: ExitCode.unreachable,
    },
  )
