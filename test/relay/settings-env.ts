import pg from 'pg'
import { expect } from 'vitest'
import { type SetupOptions, setUp } from '../../src/postgres/setup/setup.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { until } from '../../testkit/services/index.js'
import type { RelayEnv } from './relay-env.js'

export const setUpAgain = (env: RelayEnv, more: Pick<SetupOptions, 'grants'> = {}) =>
  setUp(env.postgres, {
    // A new slot waits for the open write transactions of other tests, too.
    lockTimeout: 60_000,
    ...more,
    slot: env.slot,
    publication: 'outrider',
    source: undefined,
    outboxTable: 'outrider.outbox',
    partitions: new Map(),
  })

export const role = (env: RelayEnv): string => pg.escapeIdentifier(`relay_${env.database.name}`)

/** Not ready, alive, and its message says what to look at. */
export async function expectWaiting(relay: RelayProcess, reason: string, says: RegExp): Promise<void> {
  await relay.is({ reason })
  expect(await relay.status()).toMatchObject({ code: 503, message: expect.stringMatching(says) })
  // A connection of its own, as in RelayProcess.
  const alive = await fetch(`http://127.0.0.1:${relay.httpPort}/livez`, { headers: { connection: 'close' } })
  expect(alive.status).toBe(200)
}

export async function expectFlow(env: RelayEnv): Promise<void> {
  const id = await env.insert('orders')
  await until(async () => (await env.ids('orders')).includes(id))
}
