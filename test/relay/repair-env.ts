import { expect } from 'vitest'
import type { Incident } from '../../src/postgres/state/incident.js'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import { until } from '../../testkit/services/index.js'
import { LOCK_WAITS } from '../support/lock-waits.js'
import { inflict, type Loss, saved } from './redis-loss-env.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { Traffic } from './traffic.js'

export const STREAMS = ['orders', 'users']

/** Until every incident is closed by the relay itself. */
export async function repaired(env: RelayEnv): Promise<Incident[]> {
  const closed = await until(
    async () => {
      const all = await listIncidents(env.postgres, { closed: true })
      return all.length > 0 && all.every(({ closedAt }) => closedAt !== null) && all
    },
    { timeout: 120_000, message: 'the gap to be repaired and closed' },
  )
  return closed as Incident[]
}

/** Until no gap is open whose events are not put back. Transactions that were open then may still be awaited. */
export async function putBack(env: RelayEnv): Promise<void> {
  await until(
    async () => {
      // One statement: a gap that is opened between two of them would pass for one that is repaired.
      const { rows } = await env.postgres.query(
        "select bool_and(coalesce(closed_at, repaired_at) is not null) as done from outrider.incident where kind = 'gap'",
      )
      return rows[0].done
    },
    { timeout: 120_000, message: 'the events to be put back' },
  )
}

/** Inserts events in a transaction that stays open until it is ended. */
export async function openTransaction(env: RelayEnv, count: number) {
  const client = await env.database.connect()
  const ids: string[] = []
  await client.query('begin')
  const insert = async (stream: string) => {
    const { rows } = await client.query("select outrider.publish($1, 'test.happened', '{}') as id", [stream])
    ids.push(rows[0].id)
  }
  for (let n = 0; n < count; n++) await insert('orders')
  return { client, ids, insert }
}

export const REPAIR = { OUTRIDER_ON_GAP: 'repair' }

/** Some events, all of them saved, and no checkpoint that bounds what is lost. */
export async function someEvents(env: RelayEnv, count = 5): Promise<string[]> {
  const ids: string[] = []
  for (let n = 0; n < count; n++) ids.push(await env.insert('orders', { n }))
  await saved(env, 1, ids.at(-1))
  return ids
}

/** The tests of these losses in which events flow. */
export function repairedUnderLoad(which: readonly Loss[]): void {
  test.for(which)('after $what', async (loss, { env }) => {
    const traffic = await Traffic.start(env, { streams: STREAMS, writers: 2, every: 50 })
    const relay = await env.streamingRelay({ OUTRIDER_ON_GAP: 'repair' })
    await saved(env, 2)
    await traffic.more(200)
    await inflict(env, loss)
    await traffic.more(200)
    const [incident, ...others] = await repaired(env)
    expect(others).toEqual([])
    expect(incident).toMatchObject({ kind: 'gap', reason: 'stream_behind', stream: null })
    expect(incident!.resolution).toMatch(/^repaired: \d+ events put back$/)
    await relay.streaming()
    await traffic.more(50)
    await traffic.finish()
  })
}

/** A checkpoint that sees what is published, as the relay takes one each minute while events flow. */
export async function checkpoint(env: RelayEnv): Promise<void> {
  const { rows } = await env.postgres.query(
    'select pg_current_snapshot()::text as snapshot, pg_current_wal_insert_lsn()::text as lsn',
  )
  const { snapshot, lsn } = rows[0]
  // So much that an idle relay confirms it at once.
  await env.postgres.query("select pg_logical_emit_message(false, 'test', repeat('-', 1200000))")
  await until(
    async () =>
      (await env.postgres.query('select from outrider.lineage where confirmed_lsn >= $1', [lsn])).rowCount === 1,
    { message: `${lsn} to be confirmed` },
  )
  await env.postgres.query(
    'insert into outrider.checkpoint (lineage, lsn, snapshot) select lineage, $1, $2 from outrider.lineage',
    [lsn, snapshot],
  )
}

/** Advances the slot of a relay that has ended to the end of WAL: what was inserted since then is in the table alone. */
export async function advanceSlot(env: RelayEnv): Promise<void> {
  await until(async () => {
    await env.postgres.query('select pg_replication_slot_advance($1, pg_current_wal_insert_lsn())', [env.slot])
    return true
  })
}

/**
 * Steps of a repair, by what it writes then:
 *
 *     slot      the slot is there, and where it begins is not recorded
 *     found     the ids of all streams are read, and the heads are where they were
 *     put_back  the first page of rows is put back
 */
export type RepairStep = 'slot' | 'found' | 'put_back'

export interface HeldRepair {
  /** Until the repair waits there. */
  reached(): Promise<void>
  /** The repair continues, and no later one is held. */
  release(): Promise<void>
  /** The same where the relay was killed: what it was writing is rolled back. */
  rollBack(): Promise<void>
}

/** Holds the next repair at a step. */
export async function holdRepair(env: RelayEnv, step: RepairStep): Promise<HeldRepair> {
  const holder = await env.database.connect()
  await holder.query('select pg_advisory_lock(20101)')
  const written =
    step === 'slot'
      ? 'of confirmed_lsn on outrider.lineage for each row'
      : `of ${step} on outrider.repair for each row when (new.session = old.session and new.${step} is not null)`
  await env.postgres.query(
    `create function outrider.hold_repair() returns trigger language plpgsql as $$
     begin perform pg_advisory_xact_lock_shared(20101); return new; end $$;
     create trigger hold_repair before update ${written} execute function outrider.hold_repair()`,
  )
  const waiting = `from ${LOCK_WAITS} where locktype = 'advisory' and objid = 20101`
  const release = async () => {
    await holder.end()
    await env.postgres.query('drop function outrider.hold_repair() cascade')
  }
  return {
    async reached() {
      await until(async () => (await env.postgres.query(`select ${waiting}`)).rowCount, {
        message: `the repair to write ${step}`,
      })
    },
    release,
    async rollBack() {
      await env.postgres.query(`select pg_terminate_backend(pid) ${waiting}`)
      await until(async () => (await env.postgres.query(`select ${waiting}`)).rowCount === 0)
      await release()
    },
  }
}
