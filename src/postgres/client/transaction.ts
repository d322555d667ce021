import type pg from 'pg'

/** Runs `work` in one transaction, and rolls it back when it throws. */
export async function inTransaction<T>(client: pg.ClientBase, work: () => Promise<T>): Promise<T> {
  // The server's default may be read only.
  await client.query('begin isolation level read committed read write')
  try {
    const result = await work()
    await client.query('commit')
    return result
  } catch (error) {
    // A connection that broke has rolled back already, and its first error is the one to tell.
    await client.query('rollback').catch(() => undefined)
    throw error
  }
}

/** The SQLSTATE of an error that came from Postgres. */
export function sqlState(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' ? code : undefined
}
