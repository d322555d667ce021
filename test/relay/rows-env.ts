import { until } from '../../testkit/services/index.js'
import type { RelayEnv } from './relay-env.js'

export const rejected = async (
  env: RelayEnv,
): Promise<{ reason: string; stream: string | null; row: Record<string, string> }[]> =>
  (
    await env.postgres.query('select reason, stream, "row" from outrider.incident where kind = $1 order by position', [
      'rejected',
    ])
  ).rows

/** Waits until the last event of a stream is this one; the ids of all of them. */
export async function upTo(env: RelayEnv, stream: string, id: string): Promise<string[]> {
  await until(async () => (await env.ids(stream)).at(-1) === id, { message: `event ${id} at the end of ${stream}` })
  return env.ids(stream)
}
