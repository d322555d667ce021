import { ExitCode, OutriderError } from '../base/failure.js'
import { sqlState } from '../postgres/client/transaction.js'

/** What a server answered, or why it did not. */
export type Asked<T> = { value: T } | { failure: OutriderError }

export const answerOf = <T>(asked: Asked<T>): T | undefined => ('value' in asked ? asked.value : undefined)

/** Rejects for what is no matter of the server: wrong usage, or a bug. */
export async function ask<T>(server: 'Postgres' | 'Redis', work: () => Promise<T>): Promise<Asked<T>> {
  try {
    return { value: await work() }
  } catch (error) {
    if (error instanceof OutriderError && error.exitCode !== ExitCode.usage) return { failure: error }
    if (error instanceof OutriderError || !(error instanceof Error) || /^(Type|Range|Reference)Error$/.test(error.name))
      throw error
    const refused = error.name === 'ReplyError' || /^[0-9A-Z]{5}$/.test(sqlState(error) ?? '')
    const lost = !refused || /^(08|57P)/.test(sqlState(error) ?? '')
    return {
      failure: new OutriderError(
        lost
          ? `The connection to ${server} broke: ${error.message}. Check the server, and run it again.`
          : `${server} refused: ${error.message}. ${REMEDY[server]}`,
        { exitCode: lost ? ExitCode.unreachable : ExitCode.failed, cause: error },
      ),
    }
  }
}

const REMEDY = {
  Postgres: 'Run it as a role that has outrider_relay, or as the owner of the schema.',
  Redis: 'docs/redis-acl.md has the ACL line for a person who looks.',
}
