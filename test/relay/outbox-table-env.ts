import { expect } from 'vitest'
import { incidents } from '../../src/cli/incidents.js'
import type { OutboxMapping } from '../../src/config/schema.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { until } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import type { RelayEnv } from './relay-env.js'

export const TABLE = 'public.outboxevent'
export const CREATE = `create table ${TABLE} (id text primary key, stream text, type text)`
export const mapping = (table = TABLE): OutboxMapping => ({
  table,
  stream: '{stream}',
  columns: { id: 'id', type: 'type' },
})
export const yaml = (table = TABLE) => `
outbox:
  table: ${table}
  stream: '{stream}'
  columns: { id: id, type: type }
`

export const add = (env: RelayEnv, table: string, ...ids: string[]) =>
  env.postgres.query(`insert into ${table} (id, stream, type) select id, 'orders', 't' from unnest($1::text[]) as id`, [
    ids,
  ])

export const published = (env: RelayEnv, ...ids: string[]) =>
  until(async () => expect(await env.ids('orders')).toEqual(ids) ?? true, { message: `${ids} in the stream` })

export const openIncidents = async (env: RelayEnv) =>
  (await env.postgres.query('select id::text, kind, reason from outrider.incident where closed_at is null order by id'))
    .rows

export const close = (env: RelayEnv, id: string) =>
  runCommand(incidents, env.database.url, { args: ['close', id], answer: true })

/** A relay that has published the event `first` of a mapped table. */
export async function running(env: RelayEnv, file: string, more: Record<string, string> = {}): Promise<RelayProcess> {
  const relay = await env.relay({ OUTRIDER_CONFIG: file, ...more })
  await relay.streaming()
  await add(env, TABLE, 'first')
  await published(env, 'first')
  return relay
}

export const mapped = { outbox: { table: TABLE, create: CREATE } }

export const SWAP = `begin;
  create table public.outboxevent_new (like ${TABLE} including all);
  alter table ${TABLE} rename to outboxevent_old;
  alter table public.outboxevent_new rename to outboxevent;
  commit`

/** A relay whose table was swapped, and the incident. */
export async function swapped(env: RelayEnv, file: string): Promise<{ relay: RelayProcess; id: string }> {
  const relay = await running(env, file)
  await env.postgres.query(SWAP)
  await add(env, TABLE, 'unseen')
  await relay.is({ role: 'halted', reason: 'outbox_replaced' })
  const [incident, ...others] = await openIncidents(env)
  expect([incident?.kind, incident?.reason, others]).toEqual(['gap', 'outbox_replaced', []])
  await add(env, 'public.outboxevent_old', 'behind')
  await expect(close(env, incident!.id)).rejects.toThrow(
    'cannot be closed while publication outrider publishes public.outboxevent_old',
  )
  return { relay, id: incident!.id }
}
