import pg from 'pg'

/** What every service here does at its start and at its end. */

/** What whoever deploys it says: by the environment, without a default. */
export function setting(name: string): string {
  const value = process.env[name]
  if (value) return value
  throw new Error(`Expected the environment variable ${name}, found none.`)
}

/** Connections as the service's own role. A running handler takes one of them. */
export function openPool(max: number): pg.Pool {
  const pool = new pg.Pool({ connectionString: setting('DATABASE_URL'), max })
  // An idle connection that breaks is replaced when it is needed; without a listener it would end the process.
  pool.on('error', (error) => console.error(error.message))
  return pool
}

/** Aborted when the process is asked to end. The library leaves signals to the program. */
export function stopSignal(): AbortSignal {
  const stop = new AbortController()
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => stop.abort())
  return stop.signal
}

/** All of it, or, where it throws, nothing of it. */
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
