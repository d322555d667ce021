import { describe, expect } from 'vitest'
import { streamKey } from '../../src/event/names.js'
import { partitionOf } from '../../src/event/partition.js'
import { openGaps } from '../../src/postgres/state/gaps.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import {
  beginRepair,
  closeRepaired,
  loadSettling,
  reopenRepaired,
  savePutBackHeads,
} from '../../src/postgres/state/repairs.js'
import { startProxy, until } from '../../testkit/services/index.js'
import { headOf, saved } from './redis-loss-env.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { holdRepair, REPAIR, repaired, someEvents } from './repair-env.js'

const RECREATE =
  "begin; drop publication outrider; create publication outrider for table outrider.outbox with (publish = 'insert', publish_via_partition_root = true); commit"

/** Everything that is committed now counts as published; `takenAt`: an SQL expression. */
const insertCheckpoint = (env: RelayEnv, takenAt = 'clock_timestamp()') =>
  env.postgres.query(
    `insert into outrider.checkpoint (lineage, lsn, snapshot, taken_at)
     select lineage, pg_current_wal_insert_lsn(), pg_current_snapshot(), ${takenAt} from outrider.lineage`,
  )

// The simulation in test/simulation has found them.
describe.concurrent('a repair is right', () => {
  test('where one partition has a bound and another one has none: nothing is doubled', async ({ createEnv }) => {
    const env = await createEnv({ partitions: { orders: 2 } })
    const relay = await env.streamingRelay(REPAIR)
    const key = streamKey('orders', partitionOf('subject', 2))
    const ids: string[] = []
    const areSaved = () =>
      until(
        async () => (await env.postgres.query('select from outrider.head where event_id = $1', [ids.at(-1)])).rowCount,
      )
    for (let n = 0; n < 5; n++) ids.push(await env.insert('orders', { n }, 'subject'))
    await areSaved()
    // No entry is as young as what the bound leaves out.
    await insertCheckpoint(env, "clock_timestamp() + interval '1 hour'")
    await env.postgres.query("select pg_logical_emit_message(false, 'test', '')")
    await insertCheckpoint(env, "clock_timestamp() + interval '1 hour'")
    ids.push(await env.insert('orders', {}, 'subject'))
    await areSaved()
    // A gap counts from what was confirmed when the session began.
    await relay.stop()
    await env.postgres.query(RECREATE)
    await env.relay(REPAIR)
    await repaired(env)
    expect(await env.ids(key)).toEqual(ids)
  })

  test.for([
    ['slot_missing', 'select pg_drop_replication_slot(slot) from outrider.lineage'],
    ['publication_changed', "alter publication outrider set (publish = 'insert')"],
  ] as const)('where it finds %s while it puts rows back: it does not go on', async ([reason, change], { env }) => {
    await env.streamingRelay(REPAIR)
    const ids = await someEvents(env)
    const held = await holdRepair(env, 'put_back')
    await env.redis.flushall()
    await held.reached()
    await env.postgres.query(change)
    ids.push(await env.insert('orders'))
    const gaps = 'select repaired_at, reason from outrider.incident order by id'
    const both = ['stream_behind', reason].map((each) => ({ repaired_at: null, reason: each }))
    await until(async () => (await env.postgres.query(gaps)).rowCount === 2, { message: 'the second gap' })
    expect((await env.postgres.query(gaps)).rows).toEqual(both)
    await held.release()
    await repaired(env)
    expect(await env.ids('orders')).toEqual(ids)
  })

  test('where an earlier session that was frozen has saved, or has awaited what it put back: neither counts', async ({
    env,
  }) => {
    const relay = await env.streamingRelay()
    await relay.stop()
    const { postgres } = env
    const lineage = (await currentLineage(postgres, env.slot))!.lineage
    const { rows } = await postgres.query(
      'select session::text as session, pg_backend_pid() as pid from outrider.session',
    )
    const { session, pid: walsender } = rows[0]
    await postgres.query("insert into outrider.incident (lineage, kind, reason) values ($1, 'gap', 'slot_ahead')", [
      lineage,
    ])
    const incidents = (await openGaps(postgres, lineage)).map(({ id }) => id)
    const repair = { lineage, session, timeline: 1, everyStream: true, incidents, walsender }
    const work = { lineage, session, heads: new Map(), refused: [], incidents, putBack: 0, walsender }
    await postgres.query('select pg_advisory_lock(1)')
    const { snapshot } = await beginRepair(postgres, repair)
    await postgres.query('select pg_advisory_unlock(1)')
    await expect(savePutBackHeads(postgres, work)).rejects.toThrow('lock of the slot')
    expect((await openGaps(postgres, lineage)).length).toBe(1)

    await postgres.query('select pg_advisory_lock(1)')
    await savePutBackHeads(postgres, work)
    await expect(beginRepair(postgres, repair)).rejects.toThrow('repaired while its repair began')
    expect((await postgres.query('select snapshot::text from outrider.repair')).rows).toEqual([{ snapshot }])
    await postgres.query('select pg_advisory_unlock(1)')
    await reopenRepaired(postgres, lineage, walsender)
    expect(await openGaps(postgres, lineage)).toEqual([])
    await postgres.query('select pg_advisory_lock(1)')
    await reopenRepaired(postgres, lineage, walsender)
    expect((await openGaps(postgres, lineage)).map(({ id }) => id)).toEqual(incidents)
    expect(await loadSettling(postgres, lineage)).toMatchObject({ snapshot })
    await savePutBackHeads(postgres, work)
    const other = '0b7fd6f4-6a2c-4f0e-8a61-6b1f0a3d9c11'
    expect(await closeRepaired(postgres, { lineage, session: other })).toEqual([])
    expect(await closeRepaired(postgres, { lineage, session })).toEqual(incidents)
  })

  test('where the slot is dropped while it waits for Redis: streams that Redis has not lost lack nothing either', async ({
    env,
    onTestFinished,
  }) => {
    const first = await env.streamingRelay()
    const users = [await env.insert('users')]
    const orders = await someEvents(env)
    await saved(env, 2, orders.at(-1))
    await env.redis.del('orders', await headOf(env))
    await first.is({ role: 'halted', reason: 'stream_behind' })
    await first.stop()
    users.push(await env.insert('users'))

    const redis = env.variables.OUTRIDER_REDIS_URL as string
    const proxy = await startProxy(Number(new URL(redis).port))
    onTestFinished(() => proxy.close())
    proxy.refuse()
    const relay = await env.relay({ ...REPAIR, OUTRIDER_REDIS_URL: proxy.url(redis) })
    await relay.is({ role: 'active', state: 'blocked', reason: 'redis_unreachable' })
    await env.postgres.query('select pg_drop_replication_slot($1)', [env.slot])
    await proxy.accept()
    const incidents = await repaired(env)
    await relay.streaming()
    expect([await env.ids('orders'), await env.ids('users')]).toEqual([orders, users])
    expect(incidents.map(({ reason }) => reason).sort()).toEqual(['slot_missing', 'stream_behind'])
  })
})
