import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import type { Database } from '../../testkit/services/index.js'
import { until } from '../../testkit/services/index.js'
import type { RelayEnv } from './relay-env.js'

/** Between two transactions, so that the load leaves the machine to what is tested. */
const PAUSE_MS = 20

/**
 * One writer that commits transaction after transaction to one stream until it is stopped, through every fault of the
 * server. Being alone, it commits in the order of `seq`: so the table tells what the stream must hold, in that order.
 */
export class Load {
  /** Transactions that were committed for certain. */
  commits = 0
  readonly #stop = new AbortController()
  readonly #running: Promise<void>

  constructor(database: Database, stream: string, rows = 10) {
    this.#running = this.#run(database, stream, rows)
    // Told by stop(), which a test that has failed does not come to.
    this.#running.catch(() => {})
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  /** Waits until so many more transactions are committed. */
  async more(commits: number): Promise<void> {
    const enough = this.commits + commits
    await until(() => this.commits >= enough, { message: `${commits} more commits` })
  }

  async #run(database: Database, stream: string, rows: number): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted) {
      const client = await until(() => database.connect().catch(() => undefined), { message: 'Postgres to come back' })
      try {
        while (!signal.aborted) {
          await client.query(
            `insert into outrider.outbox (stream, type, subject, data)
             select $1, 'test.happened', 'subject-' || n, json_build_object('n', n) from generate_series(1, $2) n`,
            [stream, rows],
          )
          this.commits += 1
          await pause(PAUSE_MS)
        }
      } catch (error) {
        if ((error as { severity?: string }).severity === 'ERROR') throw error
      } finally {
        await client.end().catch(() => {})
      }
    }
  }
}

/** What the table holds for a stream, in the order that its one writer committed it. */
export async function committed(database: Database, stream: string): Promise<string[]> {
  const rows = await database.query<{ id: string }>('select id from outrider.outbox where stream = $1 order by seq', [
    stream,
  ])
  return rows.map(({ id }) => id)
}

/** Everything that was committed to the stream arrives, once, in order, and nothing else. */
export async function expectComplete(env: RelayEnv, stream: string, timeout?: number): Promise<void> {
  const expected = await committed(env.database, stream)
  await until(async () => (await env.redis.xlen(stream)) >= expected.length, {
    timeout,
    message: `${expected.length} events in stream ${stream}`,
  })
  const found = await env.ids(stream)
  // Told apart first, because the difference of two long lists is hard to read.
  const known = new Set(expected)
  const met = new Set(found)
  expect({
    lost: expected.filter((id) => !met.has(id)).length,
    doubled: found.length - met.size,
    phantom: found.filter((id) => !known.has(id)).length,
  }).toEqual({ lost: 0, doubled: 0, phantom: 0 })
  expect(found).toEqual(expected)
}
