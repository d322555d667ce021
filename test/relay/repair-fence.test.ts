import pino from 'pino'
import { describe, expect } from 'vitest'
import { OWN_OUTBOX } from '../../src/config/schema.js'
import { ZERO_POSITION } from '../../src/event/position.js'
import { boundStreams, recordLostStreams, removeFoundAgain } from '../../src/postgres/state/gaps.js'
import { currentLineage, type Lineage } from '../../src/postgres/state/lineage.js'
import { beginRepair, savePutBackHeads } from '../../src/postgres/state/repairs.js'
import { recordSession } from '../../src/postgres/state/sessions.js'
import { StateStore } from '../../src/relay/confirm/state-store.js'
import { MissingRows, PresentIds } from '../../src/relay/repair/missing-rows.js'
import { SettledRows, TXID } from '../../src/relay/repair/settled-rows.js'
import { readSettling, Settling } from '../../src/relay/repair/settling.js'
import { recoverSlot } from '../../src/relay/repair/slot-recovery.js'
import { RowRouter } from '../../src/relay/source/row-router.js'
import { until } from '../../testkit/services/index.js'
import { holdLock } from '../support/lock-holder.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

const SESSIONS = ['01a00000-0000-7000-8000-000000000001', '01a00000-0000-7000-8000-000000000002'] as const

async function lineageOf(env: RelayEnv): Promise<Lineage> {
  const lineage = (await currentLineage(env.postgres, env.slot))!
  const row = { lineage: lineage.lineage, version: '0', timeline: 1 }
  for (const session of SESSIONS) await recordSession(env.postgres, { session, ...row }, async () => {})
  return lineage
}

const processId = async (env: RelayEnv): Promise<number> =>
  (await env.postgres.query('select pg_backend_pid() as pid')).rows[0].pid

async function slotCreatedAt(env: RelayEnv): Promise<string> {
  const { rows } = await env.postgres.query(
    'select restart_lsn::text as lsn from pg_replication_slots where slot_name = $1',
    [env.slot],
  )
  return rows[0].lsn
}

describe.concurrent('a repair that was frozen and has lost the lock of its slot', () => {
  test('neither drops the slot nor records what is confirmed', async ({ env }) => {
    const lineage = await lineageOf(env)
    const detail = { message: 'publication "outrider" does not exist', confirmed: lineage.confirmedLsn }
    const recover = async () =>
      recoverSlot({
        ...{ client: env.postgres, lineage, mapping: OWN_OUTBOX, walsender: await processId(env), waiting: () => {} },
        gaps: [{ id: '1', reason: 'slot_lost', detail, repairMax: undefined }],
      })
    await env.postgres.query('select pg_replication_slot_advance($1, pg_current_wal_insert_lsn())', [env.slot])
    const created = await slotCreatedAt(env)
    await expect(recover()).rejects.toThrow()
    const found = await env.postgres.query('select confirmed_lsn::text as lsn from outrider.lineage')
    expect(found.rows).toEqual([{ lsn: lineage.confirmedLsn }])
    expect(await slotCreatedAt(env)).toBe(created)

    await env.postgres.query('select pg_advisory_lock(1)')
    await recover()
    expect(await slotCreatedAt(env)).not.toBe(created)
  })

  test('does not take the place of the repair of the next session', async ({ env }) => {
    const { lineage } = await lineageOf(env)
    const begin = async (session: string) =>
      beginRepair(env.postgres, {
        ...{ lineage, session, timeline: 1, everyStream: true, walsender: await processId(env), incidents: [] },
      })
    await env.postgres.query('select pg_advisory_lock(1)')
    await begin(SESSIONS[1])
    await env.postgres.query('select pg_advisory_unlock(1)')
    await expect(begin(SESSIONS[0])).rejects.toThrow('The lock of the slot is not held any longer')
    expect((await env.postgres.query('select session from outrider.repair')).rows).toEqual([{ session: SESSIONS[1] }])
  })

  test('changes no bound that the repair of the next session goes by', async ({ env }) => {
    const { lineage } = await lineageOf(env)
    const walsender = await holdLock(env.postgres)
    const stream = { key: 'orders', snapshot: '5:5:', since: null }
    const id = await recordLostStreams(env.postgres, { lineage, walsender }, [
      { ...stream, head: 'as it was found', detail: {} },
    ])
    await beginRepair(env.postgres, {
      ...{ lineage, session: SESSIONS[1], timeline: 1, everyStream: false, walsender, incidents: [id] },
    })
    const snapshots = async () =>
      (await env.postgres.query('select snapshot::text from outrider.gap_stream order by stream_key')).rows
    const unbound = [stream, { ...stream, key: 'users' }].map((each) => ({ ...each, snapshot: null }))
    const frozen = boundStreams(env.postgres, { id, session: SESSIONS[0] }, unbound)
    await expect(frozen).rejects.toThrow('has begun to repair')
    expect(await snapshots()).toEqual([{ snapshot: '5:5:' }])

    await boundStreams(env.postgres, { id, session: SESSIONS[1] }, unbound)
    expect(await snapshots()).toEqual([{ snapshot: null }, { snapshot: null }])
  })

  test('drops no bound, and opens no gap again, by what it had found in Redis', async ({ env }) => {
    const { lineage } = await lineageOf(env)
    const walsender = await holdLock(env.postgres)
    const stream = { key: 'orders', snapshot: '5:5:', since: null, head: 'as it was found', detail: {} }
    const id = await recordLostStreams(env.postgres, { lineage, walsender }, [stream])
    await env.postgres.query('update outrider.incident set repaired_at = now()')
    const found = async () =>
      (
        await env.postgres.query(
          'select snapshot::text, repaired_at is null as open from outrider.gap_stream join outrider.incident on id = incident',
        )
      ).rows
    const lost = [{ ...stream, snapshot: null }]
    await env.postgres.query('select pg_advisory_unlock(1)')
    await expect(recordLostStreams(env.postgres, { lineage, walsender }, lost)).rejects.toThrow('lock of the slot')
    expect(await found()).toEqual([{ snapshot: '5:5:', open: false }])

    await holdLock(env.postgres)
    expect(await recordLostStreams(env.postgres, { lineage, walsender }, lost)).toBe(id)
    expect(await found()).toEqual([{ snapshot: null, open: true }])
  })

  test('is waited for where it held the lock when it began to record what Redis has lost', async ({ env }) => {
    const { lineage } = await lineageOf(env)
    const walsender = await holdLock(env.postgres)
    const stream = { key: 'orders', snapshot: '5:5:', since: null, head: 'as it was found', detail: {} }
    const id = await recordLostStreams(env.postgres, { lineage, walsender }, [stream])
    const holder = await env.database.connect()
    await holder.query('begin; update outrider.gap_stream set detail = detail')
    const frozen = await env.database.connect()
    const { rows } = await frozen.query('select pg_backend_pid() as pid')
    const waiting = async (pid: number) =>
      until(async () => (await holder.query('select from pg_locks where not granted and pid = $1', [pid])).rowCount)
    const recorded = recordLostStreams(frozen, { lineage, walsender }, [{ ...stream, snapshot: null }])
    await waiting(rows[0].pid)
    const begun = beginRepair(env.postgres, {
      ...{ lineage, session: SESSIONS[1], timeline: 1, everyStream: false, walsender, incidents: [id] },
    })
    await waiting(walsender)
    await holder.query('rollback')
    await Promise.all([recorded, begun])
    const bounds = await holder.query('select snapshot from outrider.gap_stream')
    expect(bounds.rows).toEqual([{ snapshot: null }])
    await Promise.all([holder.end(), frozen.end()])
  })

  test('hides no row from the next session by an id that it found before', async ({ env }) => {
    const { lineage } = await lineageOf(env)
    const id = await env.insert('orders')
    await env.postgres.query('update outrider.lineage set first_snapshot = null')
    await recordLostStreams(env.postgres, { lineage, walsender: await holdLock(env.postgres) }, [
      { key: 'orders', snapshot: null, since: null, head: null, detail: {} },
    ])
    const missing = async (session: string) => {
      const { rows } = await env.postgres.query('select pg_current_snapshot()::text as snapshot')
      return new MissingRows({
        ...{ client: env.postgres, lineage, session, snapshot: rows[0].snapshot },
      }).find(10)
    }
    const present = new PresentIds(env.postgres, lineage, SESSIONS[0])
    await present.add('orders', [id])
    await present.flush()
    expect((await missing(SESSIONS[0])).rows).toBe(0)
    expect((await missing(SESSIONS[1])).rows).toBe(1)
  })
})

test('a repair saves no head of a stream that a frozen session has taken out of its gap', async ({ env }) => {
  const { lineage } = await lineageOf(env)
  await env.postgres.query('select pg_advisory_lock(1)')
  const walsender = await processId(env)
  const streams = ['orders', 'users'].map((key) => ({ key, snapshot: null, since: null, head: null, detail: {} }))
  const id = await recordLostStreams(env.postgres, { lineage, walsender }, streams)
  const repair = { lineage, session: SESSIONS[1], incidents: [id], walsender }
  await beginRepair(env.postgres, { ...repair, timeline: 1, everyStream: false })
  const head = { position: ZERO_POSITION, event: '', entry: '0-0' }
  const save = () =>
    savePutBackHeads(env.postgres, {
      ...{ ...repair, refused: [], putBack: 0 },
      heads: new Map(streams.map(({ key }) => [key, head])),
    })
  const savedHeads = async () => (await env.postgres.query('select from outrider.head')).rowCount
  await removeFoundAgain(env.postgres, id, ['users'])
  await expect(save()).rejects.toThrow('Stream users was taken out of its gap')
  expect(await savedHeads()).toBe(0)

  await recordLostStreams(env.postgres, { lineage, walsender }, streams)
  await save()
  expect(await savedHeads()).toBe(2)
})

/** A repair that awaits the transaction of one event of `orders`, which is not in its stream. */
async function awaitingRepair(env: RelayEnv) {
  const lineage = await lineageOf(env)
  await env.postgres.query('select pg_advisory_lock(1)')
  const walsender = await processId(env)
  await beginRepair(env.postgres, {
    ...{ lineage: lineage.lineage, session: SESSIONS[0], timeline: 1, everyStream: true, walsender, incidents: [] },
  })
  const id = await env.insert('orders')
  await env.postgres.query('update outrider.repair set unsettled = array(select txid from outrider.outbox)')
  await env.postgres.query(
    "insert into outrider.incident (lineage, kind, reason, repaired_at) values ($1, 'gap', 'slot_missing', now())",
    [lineage.lineage],
  )
  const repair = (await readSettling(env.postgres, lineage))!
  /** Why it does not settle; undefined: it does. */
  const outcome = async (server: RelayEnv, holder: number) => {
    const router = new RowRouter(OWN_OUTBOX, {})
    const ended = new AbortController()
    let failure: Error | undefined
    new Settling({
      ...{ repair, lineage, router, log: pino({ level: 'silent' }) },
      stateStore: new StateStore(env.postgres, lineage, SESSIONS[0], holder),
      settled: new SettledRows({ ...repair, router: new RowRouter(OWN_OUTBOX, {}, undefined, [TXID]) }),
      connectRedis: async () => env.redis.duplicate(),
      connectPostgres: () => server.database.connect(),
      confirmed: () => 2n ** 60n,
      failed: (error) => {
        failure = error as Error
      },
    }).start(ended.signal)
    const closed = "select from outrider.incident where kind = 'gap' and closed_at is not null"
    await until(async () => failure !== undefined || (await env.postgres.query(closed)).rowCount !== 0)
    ended.abort()
    return failure?.message
  }
  return { id, lineage, outcome, walsender }
}

describe.concurrent('transactions that a repair awaits do not settle', () => {
  test('by what a server has where the lock is not held', async ({ env, createEnv }) => {
    const { outcome, walsender } = await awaitingRepair(env)
    // The locks of all databases of a server are one list.
    expect(await outcome(await createEnv(), 0)).toMatch(/The lock of the slot is not held any longer/)
    expect(await outcome(env, walsender)).toMatch(/Events are missing/)
  })

  test('because the id of a missing event is that of a rejected row in another stream', async ({ env }) => {
    const { id, lineage, outcome, walsender } = await awaitingRepair(env)
    await env.postgres.query(
      "insert into outrider.incident (lineage, kind, reason, stream, event_id, position) values ($1, 'rejected', 'too_large', 'users', $2, '')",
      [lineage.lineage, id],
    )
    expect(await outcome(env, walsender)).toMatch(/Events are missing/)
  })
})
