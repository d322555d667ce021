import pg from 'pg'

/** Code that all services of the examples share. */

/** A required setting of the deployment. */
export function setting(name: string): string {
  const value = process.env[name]
  if (value) return value
  throw new Error(`Expected the environment variable ${name}, found none.`)
}

/** A pool of connections with the role of the service. Each running handler uses one connection. */
export function openPool(max: number): pg.Pool {
  return new pg.Pool({ connectionString: setting('DATABASE_URL'), max })
}

/** A signal that is aborted on SIGTERM and SIGINT. The library installs no handlers for process signals. */
export function stopSignal(): AbortSignal {
  const stop = new AbortController()
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => stop.abort())
  return stop.signal
}

/** Commits what `run` does, or rolls back if it throws. */
export async function inTransaction<Result>(client: pg.Client, run: () => Promise<Result>): Promise<Result> {
  await client.query('begin')
  try {
    const result = await run()
    await client.query('commit')
    return result
  } catch (error) {
    await client.query('rollback')
    throw error
  }
}
