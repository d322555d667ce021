import type pg from 'pg'

/** Takes an advisory lock, as the walsender of a relay holds one. Resolves with the process id of the connection. */
export async function holdLock(client: pg.ClientBase): Promise<number> {
  const { rows } = await client.query<{ pid: number }>('select pg_advisory_lock(1), pg_backend_pid() as pid')
  return rows[0]!.pid
}
