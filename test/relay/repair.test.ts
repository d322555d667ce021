import { describe, expect } from 'vitest'
import { incidentText } from '../../src/cli/incidents-text.js'
import { type OpenGap, openGaps, recordLostStreams } from '../../src/postgres/state/gaps.js'
import { closeIncident, getIncident, openIncident } from '../../src/postgres/state/incidents.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { until } from '../../testkit/services/index.js'
import { holdLock } from '../support/lock-holder.js'
import { isBefore18 } from './gap-slot-env.js'
import { losses, saved } from './redis-loss-env.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { advanceSlot, openTransaction, putBack, REPAIR, repaired, repairedUnderLoad, someEvents } from './repair-env.js'
import { rejected } from './rows-env.js'

describe.concurrent('a gap is repaired from the outbox under load, and nothing is lost, doubled or out of order', () => {
  // The others in repair.slow.test.ts.
  repairedUnderLoad(losses.filter(({ what }) => what === 'FLUSHALL'))
})

describe.concurrent('a repair', () => {
  test('does not wait for a transaction that is open: its events come when it commits, and the gap is closed then', async ({
    env,
  }) => {
    const relay = await env.streamingRelay(REPAIR)
    const ids = await someEvents(env)
    const open = await openTransaction(env, 2)
    await env.redis.flushall()
    await until(
      async () => (await env.postgres.query('select from outrider.incident where repaired_at is not null')).rowCount,
    )
    await relay.streaming()
    expect(await env.ids('orders')).toEqual(ids)
    ids.push(await env.insert('orders'))
    await until(async () => (await env.ids('orders')).length === ids.length, { message: 'events to flow meanwhile' })
    await open.client.query('commit')
    await open.client.end()
    await repaired(env)
    expect(await env.ids('orders')).toEqual([...ids, ...open.ids])
  })

  test('puts back what a transaction wrote while the publication was missing, though it commits after it was there again', async ({
    env,
    skip,
  }) => {
    if (await isBefore18(env)) return skip('before 18 the slot is created again, which waits for the open transaction')
    const relay = await env.streamingRelay(REPAIR)
    const ids = await someEvents(env)
    const open = await openTransaction(env, 1)
    await env.postgres.query('drop publication outrider')
    await open.insert('orders')
    await relay.is({ role: 'halted', reason: 'publication_missing' })
    await env.postgres.query(
      "create publication outrider for table outrider.outbox with (publish = 'insert', publish_via_partition_root = true)",
    )
    // A new slot waits for all open transactions: without one, where the server cannot decode what was written meanwhile.
    await until(
      async () => (await env.postgres.query('select from outrider.incident where repaired_at is not null')).rowCount,
      {
        message: 'the gap to be repaired',
      },
    )
    await open.insert('orders')
    await open.client.query('commit')
    await open.client.end()
    await repaired(env)
    await relay.streaming()
    expect((await env.ids('orders')).sort()).toEqual([...ids, ...open.ids].sort())
  })

  test('does not take the bound of a stream from its head any longer once the stream itself is lost', async ({
    env,
  }) => {
    const { rows } = await env.postgres.query('select lineage from outrider.lineage')
    const walsender = await holdLock(env.postgres)
    const stream = { key: 'orders', since: null, head: 'as it was found', detail: {} }
    const bound = async (snapshot: string | null) => {
      await recordLostStreams(env.postgres, { ...rows[0], walsender }, [{ ...stream, snapshot }])
      return (await env.postgres.query('select snapshot::text from outrider.gap_stream')).rows[0].snapshot
    }
    expect([await bound('1:1:'), await bound('2:2:'), await bound(null), await bound('1:1:')]).toEqual([
      '1:1:',
      '1:1:',
      null,
      null,
    ])
  })

  test('of a gap that is found once more while it settles goes by what is found now', async ({ env }) => {
    const { rows } = await env.postgres.query('select lineage from outrider.lineage')
    const found = async (confirmed: string, more = {}) =>
      openIncident(env.postgres, {
        ...{ lineage: rows[0].lineage, kind: 'gap', reason: 'slot_lost' },
        detail: { slot: env.slot, confirmed, ...more },
      })
    const id = await found('0/10')
    await env.postgres.query('update outrider.incident set repaired_at = now()')
    expect(await found('0/20', { message: 'publication "outrider" does not exist' })).toBe(id)
    expect(await openGaps(env.postgres, rows[0].lineage)).toMatchObject([
      { id, detail: { confirmed: '0/20', message: 'publication "outrider" does not exist' } },
    ])
  })

  test('puts back an event whose id another stream has', async ({ env }) => {
    const first = await env.streamingRelay(REPAIR)
    const ids = await someEvents(env, 1)
    await first.kill()
    await env.postgres.query(
      `insert into outrider.outbox (bucket, id, stream, type, data)
       select (bucket + 1) % 4, id, 'users', type, data from outrider.outbox`,
    )
    await advanceSlot(env)
    await env.relay(REPAIR)
    await putBack(env)
    expect([await env.ids('orders'), await env.ids('users')]).toEqual([ids, ids])
  })

  test('puts back an event with the id of a rejected row: of another stream, or inserted again', async ({ env }) => {
    const limited = { ...REPAIR, OUTRIDER_MAX_EVENT_BYTES: '10KiB' }
    await env.redis.set('taken', 'not a stream')
    const first = await env.streamingRelay(limited)
    const ids = await someEvents(env, 1)
    const tooLarge = await env.insert('orders', 'x'.repeat(20_000))
    const refused = await env.insert('taken')
    await until(async () => (await rejected(env)).length === 2, { message: 'both rows to be rejected' })
    await first.kill()
    await env.redis.del('taken')
    await env.postgres.query(
      `insert into outrider.outbox (bucket, id, stream, type, data, created_at)
         select (bucket + 1) % 4, id, stream, type, '{}'::json, clock_timestamp() from outrider.outbox where id = any ($1)
         union all
         select (bucket + 2) % 4, id, 'users', type, '{}'::json, created_at from outrider.outbox where id = $2`,
      [[tooLarge, refused], tooLarge],
    )
    await advanceSlot(env)
    await env.relay(limited)
    await putBack(env)
    const found = await Promise.all(['orders', 'users', 'taken'].map((stream) => env.ids(stream)))
    expect(found).toEqual([[...ids, tooLarge], [tooLarge], [refused]])
    expect(await rejected(env)).toHaveLength(2)
  })

  test('of a stream that two gaps name, with more streams between than are read at once, comes to its end', async ({
    env,
  }) => {
    const relay = await env.streamingRelay()
    const ids = await someEvents(env)
    await relay.stop()
    await env.redis.flushall()
    await openGapPerStream(env, 'orders')
    await env.postgres.query(
      `with gap as (insert into outrider.incident (lineage, kind, reason) select lineage, 'gap', 'stream_behind' from outrider.lineage
         returning id)
       insert into outrider.gap_stream (incident, stream_key)
         select id, 'a' || n from gap, generate_series(1, 1000) as n union all select id, 'orders' from gap`,
    )
    await env.relay(REPAIR)
    await putBack(env)
    expect(await env.ids('orders')).toEqual(ids)
  })

  test.for([
    ['a gap is closed', closeUsers],
    ['rows are deleted, and the count is an hour old', deleteUsers],
  ] as const)('of too many events begins by itself once %s, which leaves few enough', async ([, leaveOut], { env }) => {
    const relay = await env.streamingRelay()
    const users = await env.insert('users')
    const ids = await someEvents(env)
    await saved(env, 2)
    await relay.stop()
    await env.redis.flushall()
    await openGapPerStream(env, 'users', 'orders')
    const again = await env.relay({ ...REPAIR, OUTRIDER_REPAIR_MAX_EVENTS: '5' })
    await again.is({ role: 'halted', reason: 'repair_too_large' })
    await leaveOut(env, users)
    await putBack(env)
    expect([await env.ids('users'), await env.ids('orders')]).toEqual([[], ids])
  })

  test('of a stream that was copied entry by entry after a trim says so, and loses nothing', async ({ env }) => {
    const first = await env.streamingRelay()
    const ids = await someEvents(env)
    await first.stop()
    await env.redis.xtrim('orders', 'MAXLEN', 2)
    const kept = await env.redis.xrange('orders', '-', '+')
    await env.redis.del('orders')
    for (const [entry, fields] of kept) await env.redis.xadd('orders', entry, ...fields)
    const second = await env.relay()
    await second.is({ role: 'halted', reason: 'stream_behind' })
    await second.stop()
    const [{ id }] = (await openGaps(env.postgres, (await currentLineage(env.postgres, env.slot))!.lineage)) as [
      OpenGap,
    ]
    expect(incidentText((await getIncident(env.postgres, id))!)).toMatch(
      /orders: .*the stream was copied entry by entry, .*trimmed events may be put back/,
    )
    await env.relay(REPAIR)
    await repaired(env)
    expect(await env.ids('orders')).toEqual([...ids.slice(3), ...ids.slice(0, 3)])
  })
})

/** As an earlier version did. */
async function openGapPerStream(env: RelayEnv, ...streams: string[]): Promise<void> {
  await env.postgres.query(
    `insert into outrider.incident (lineage, kind, reason, stream)
     select lineage, 'gap', 'stream_behind', stream from outrider.lineage, unnest($1::text[]) as stream`,
    [streams],
  )
}

async function closeUsers(env: RelayEnv): Promise<void> {
  const { rows } = await env.postgres.query("select id::text from outrider.incident where stream = 'users'")
  await closeIncident(env.postgres, rows[0].id)
}

async function deleteUsers(env: RelayEnv, id: string): Promise<void> {
  await env.postgres.query('delete from outrider.outbox where id = $1', [id])
  await env.postgres.query("update outrider.repair set began_at = began_at - interval '1 hour'")
}
