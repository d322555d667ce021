import { expect } from 'vitest'
import { OWN_OUTBOX } from '../../src/config/schema.js'
import { adoptLineage, planAdoption } from '../../src/postgres/setup/adoption.js'
import { storedLineage } from '../../src/postgres/state/lineage.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { until } from '../../testkit/services/index.js'
import type { RelayEnv } from './relay-env.js'

/** A relay that has published one event, whose head is confirmed. */
export async function running(env: RelayEnv): Promise<{ relay: RelayProcess; first: string }> {
  const relay = await env.streamingRelay()
  const first = await env.insert('orders')
  await until(async () => (await env.ids('orders')).length === 1)
  return { relay, first }
}

/** Halted for this reason, not ready, with one open incident that is a gap; its id. */
export async function expectGap(env: RelayEnv, relay: RelayProcess, reason: string, advice: string): Promise<string> {
  await relay.is({ role: 'halted', reason })
  expect(await relay.status()).toMatchObject({ code: 503, message: expect.stringContaining(advice) })
  const { rows } = await env.postgres.query(
    'select id::text, kind, reason from outrider.incident where closed_at is null order by id',
  )
  expect(rows).toEqual([{ id: expect.any(String), kind: 'gap', reason }])
  return rows[0].id
}

/** Nothing newer is published, however often the relay looks again. */
export async function expectStillness(env: RelayEnv, relay: RelayProcess): Promise<string> {
  const before = await env.ids('orders')
  const id = await env.insert('orders')
  const errors = (await relay.metric('outrider_errors_total')) as number
  await until(async () => ((await relay.metric('outrider_errors_total')) as number) > errors, {
    message: 'the relay to look again',
  })
  expect(await env.ids('orders')).toEqual(before)
  return id
}

/** Drops the slot, under a running relay or after one: a walsender ends a moment after its connection. */
export async function dropSlot(env: RelayEnv): Promise<void> {
  await until(async () => {
    await env.postgres.query('select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1', [
      env.slot,
    ])
    await env.postgres.query('select pg_drop_replication_slot($1)', [env.slot])
    return true
  })
}

export const isBefore18 = async (env: RelayEnv): Promise<boolean> =>
  (await env.postgres.query("select current_setting('server_version_num')::integer < 180000 as before")).rows[0].before

export async function expectAdopted(env: RelayEnv, relay: RelayProcess): Promise<void> {
  const stored = await storedLineage(env.postgres, env.slot)
  await adoptLineage(env.postgres, await planAdoption(env.postgres, stored!, OWN_OUTBOX))
  await relay.streaming()
  const id = await env.insert('orders')
  await until(async () => (await env.ids('orders')).at(-1) === id)
}
