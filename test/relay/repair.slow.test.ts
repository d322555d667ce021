import { describe, expect } from 'vitest'
import { incidents } from '../../src/cli/incidents.js'
import { closeIncident, listIncidents } from '../../src/postgres/state/incidents.js'
import { requestRepair } from '../../src/postgres/state/repair-request.js'
import { until } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { LOCK_WAITS } from '../support/lock-waits.js'
import { dropSlot } from './gap-slot-env.js'
import { headOf, losses, saved } from './redis-loss-env.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import {
  advanceSlot,
  checkpoint,
  holdRepair,
  openTransaction,
  putBack,
  REPAIR,
  repaired,
  repairedUnderLoad,
  STREAMS,
  someEvents,
} from './repair-env.js'
import { Traffic } from './traffic.js'

describe.concurrent('a gap is repaired from the outbox under load, and nothing is lost, doubled or out of order', () => {
  repairedUnderLoad(losses.filter(({ what }) => what !== 'FLUSHALL'))

  test('after the slot was dropped', async ({ env }) => {
    const traffic = await Traffic.start(env, { streams: STREAMS, writers: 2, every: 50 })
    const relay = await env.streamingRelay({ OUTRIDER_ON_GAP: 'repair' })
    await saved(env, 2)
    await traffic.more(200)
    await dropSlot(env)
    await traffic.more(200)
    const [incident, ...others] = await repaired(env)
    expect(others).toEqual([])
    expect(incident).toMatchObject({ kind: 'gap', reason: 'slot_missing' })
    await relay.streaming()
    await traffic.more(50)
    await traffic.finish()
  })
})

describe.concurrent('a repair', () => {
  test('of more events than the limit waits for a person, however often the relay looks again, and puts back all once asked', async ({
    env,
  }) => {
    const relay = await env.streamingRelay({ ...REPAIR, OUTRIDER_REPAIR_MAX_EVENTS: '1' })
    const ids = await someEvents(env)
    await relay.kill()
    await dropSlot(env)
    for (let n = 0; n < 3; n++) ids.push(await env.insert('orders'))
    const again = await env.relay({ ...REPAIR, OUTRIDER_REPAIR_MAX_EVENTS: '1' })
    await again.is({ role: 'halted', reason: 'repair_too_large' })
    const looks = () => again.metric('outrider_errors_total{target="outrider",code="repair_too_large"}')
    const seen = (await looks()) ?? 0
    await until(async () => ((await looks()) ?? 0) >= seen + 2, { message: 'the relay to look again' })
    expect(await again.status()).toMatchObject({ role: 'halted' })
    const states = again.logs.map(({ state }) => state)
    expect(states.slice(states.indexOf('halted'))).not.toContain('repairing')
    expect(await env.ids('orders')).toHaveLength(5)

    await env.postgres.query('update outrider.incident set repair_max = 100 where closed_at is null')
    await repaired(env)
    expect(await env.ids('orders')).toEqual(ids)
  })

  test('halts where row level security may hide rows from the relay, and puts back all of them once it does not', async ({
    env,
  }) => {
    const relay = await env.streamingRelay(REPAIR)
    const ids = await someEvents(env)
    await env.postgres.query('alter table outrider.outbox enable row level security')
    await env.redis.flushall()
    await relay.is({ role: 'halted', reason: 'postgres_privilege' })
    expect(await relay.status()).toMatchObject({
      message: expect.stringMatching(
        /row-level security policy for table "outbox"\. `outrider check` says what is missing/,
      ),
    })
    await env.postgres.query('alter table outrider.outbox disable row level security')
    await repaired(env)
    expect(await env.ids('orders')).toEqual(ids)
  })

  test('waits where the key of a stream holds another type, rejects none of its events, and puts them back once it is free', async ({
    env,
  }) => {
    const relay = await env.streamingRelay(REPAIR)
    const ids = await someEvents(env)
    await env.redis.set('orders', 'a string')
    ids.push(await env.insert('orders'))
    await relay.is({ role: 'halted', reason: 'wrong_type' })
    expect(await listIncidents(env.postgres)).toMatchObject([{ kind: 'gap', reason: 'stream_behind' }])
    expect(await env.redis.get('orders')).toBe('a string')
    await env.redis.del('orders')
    expect(await repaired(env)).toMatchObject([{ resolution: 'repaired: 6 events put back' }])
    expect(await env.ids('orders')).toEqual(ids)
  })

  test('that a person has asked for covers the gap that it finds itself', async ({ env }) => {
    const relay = await env.streamingRelay()
    const ids = await someEvents(env)
    await relay.stop()
    await dropSlot(env)
    await env.redis.flushall()
    await (await env.relay()).is({ role: 'halted', reason: 'slot_missing' })
    const [incident] = await listIncidents(env.postgres)
    await requestRepair(env.postgres, incident!.id)
    expect((await repaired(env)).map(({ reason }) => reason).sort()).toEqual(['slot_missing', 'stream_behind'])
    expect(await env.ids('orders')).toEqual(ids)
  })

  test('that is killed at any moment is done by the next relay, and nothing is lost or doubled', async ({ env }) => {
    const first = await env.streamingRelay(REPAIR)
    await first.stop()
    await env.postgres.query(
      `insert into outrider.outbox (stream, type, data)
       select 'orders', 'test.happened', json_build_object('n', n) from generate_series(1, 20000) as n`,
    )
    const relay = await env.streamingRelay(REPAIR)
    await until(async () => (await env.redis.xlen('orders')) === 20_000)
    await saved(env, 1, (await env.ids('orders')).at(-1))
    await env.redis.flushall()
    let victim = relay
    for (const events of [1, 5_000, 12_000]) {
      await until(async () => (await env.redis.xlen('orders')) >= events, { message: `${events} events put back` })
      await victim.kill()
      victim = await env.relay(REPAIR)
    }
    await repaired(env)
    const ids = await env.ids('orders')
    expect([ids.length, new Set(ids).size]).toEqual([20_000, 20_000])
  })

  test('that is killed after Redis lost everything between two attempts puts back all of it, whatever was known before', async ({
    env,
  }) => {
    const first = await env.streamingRelay(REPAIR)
    await env.postgres.query(
      "insert into outrider.outbox (stream, type, data) select 'orders', 'test.happened', '{}' from generate_series(1, 1500)",
    )
    await until(async () => (await env.redis.xlen('orders')) === 1500)
    const ids = await env.ids('orders')
    await saved(env, 1, ids.at(-1))
    await checkpoint(env)
    await first.kill()
    for (let n = 0; n < 3; n++) ids.push(await env.insert('orders'))
    await advanceSlot(env)
    const relay = await env.relay({ ...REPAIR, OUTRIDER_REPAIR_MAX_EVENTS: '1' })
    await relay.is({ role: 'halted', reason: 'repair_too_large' })
    await env.redis.flushall()
    const held = await holdRepair(env, 'put_back')
    await env.postgres.query('update outrider.incident set repair_max = 10000 where closed_at is null')
    await held.reached()
    await relay.kill()
    await held.release()
    await env.relay(REPAIR)
    await putBack(env)
    expect((await env.ids('orders')).sort()).toEqual(ids.sort())
  })

  test('that a person closes while it puts back leaves what is there, and events flow', async ({ env }) => {
    const first = await env.streamingRelay(REPAIR)
    const before = await someEvents(env)
    await checkpoint(env)
    await first.kill()
    await env.postgres.query(
      "insert into outrider.outbox (stream, type, data) select 'orders', 'test.happened', '{}' from generate_series(1, 1500)",
    )
    await advanceSlot(env)
    const held = await holdRepair(env, 'put_back')
    const relay = await env.relay(REPAIR)
    await held.reached()
    // It waits for the row that the repair is writing.
    const closed = closeIncident(env.postgres, (await listIncidents(env.postgres))[0]!.id)
    const waits = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
      and wait_event <> 'advisory'`
    await until(async () => (await env.database.query(waits)).length > 0, { message: 'the closing to wait' })
    await held.release()
    await closed
    await relay.streaming()
    const id = await env.insert('orders')
    await until(async () => (await env.ids('orders')).at(-1) === id, { message: 'events to flow' })
    await saved(env, 1, id)
    const ids = await env.ids('orders')
    expect(new Set(ids).size).toBe(ids.length)
    expect(ids.slice(0, 5)).toEqual(before)
    const incidents = await listIncidents(env.postgres, { closed: true })
    expect(incidents.map(({ reason, resolution }) => [reason, resolution])).toEqual([
      ['slot_ahead', 'closed by an operator'],
    ])
  })

  test.for([
    { what: 'everything', lose: (env: RelayEnv) => env.redis.flushall() },
    { what: 'a stream', lose: (env: RelayEnv) => env.redis.del('orders') },
  ])('puts back no event of $what that was lost before, and accepted', async ({ lose }, { env }) => {
    const relay = await env.streamingRelay()
    await someEvents(env)
    await checkpoint(env)
    await lose(env)
    await relay.is({ role: 'halted', reason: 'stream_behind' })
    await closeIncident(env.postgres, (await listIncidents(env.postgres))[0]!.id)
    await relay.streaming()
    await relay.kill()
    const ids = [await env.insert('orders'), await env.insert('orders')]
    await advanceSlot(env)
    await env.relay(REPAIR)
    await until(async () => (await env.ids('orders')).includes(ids[1]!), { message: 'what the slot has skipped' })
    expect(await env.ids('orders')).toEqual(ids)
  })

  test('begins again when everything is lost once more meanwhile', async ({ env }) => {
    const relay = await env.streamingRelay(REPAIR)
    const traffic = await Traffic.start(env, { streams: STREAMS, writers: 2, every: 50 })
    await saved(env, 2)
    await traffic.more(200)
    for (let loss = 0; loss < 2; loss++) {
      await env.redis.flushall()
      await relay.is({ state: 'repairing' })
    }
    await env.redis.flushall()
    await repaired(env)
    await relay.streaming()
    await traffic.more(50)
    await traffic.finish()
  })

  test('puts back all events of a stream that went back to an older state and was deleted after that', async ({
    env,
  }) => {
    const relay = await env.streamingRelay()
    const ids = await someEvents(env)
    await checkpoint(env)
    ids.push(await env.insert('orders'))
    await saved(env, 1, ids.at(-1))
    const head = await headOf(env)
    const older = await Promise.all(['orders', head].map((key) => env.redis.dumpBuffer(key)))
    ids.push(await env.insert('orders'))
    await saved(env, 1, ids.at(-1))
    await env.redis.multi().restore('orders', 0, older[0]!, 'REPLACE').restore(head, 0, older[1]!, 'REPLACE').exec()
    await relay.is({ role: 'halted', reason: 'stream_behind' })
    const { rows } = await env.postgres.query('select snapshot is not null as bound from outrider.gap_stream')
    expect(rows).toEqual([{ bound: true }])
    await env.redis.del('orders')
    await env.postgres.query('update outrider.incident set repair_max = 100 where closed_at is null')
    await putBack(env)
    expect(await env.ids('orders')).toEqual(ids)
  })

  test('of a stream that went back into the middle of an earlier repair puts back what that one had put back later', async ({
    env,
  }) => {
    const { ids, held } = await heldWhilePuttingBack(env)
    // The 1,000 rows that were handed on.
    await until(async () => (await env.redis.xlen('orders')) === 1_000, { message: 'the first rows to be put back' })
    const head = await headOf(env)
    const older = await Promise.all(['orders', head].map((key) => env.redis.dumpBuffer(key)))
    await held.release()
    await repaired(env)
    ids.push(await env.insert('orders'))
    await saved(env, 1, ids.at(-1))
    await env.redis.multi().restore('orders', 0, older[0]!, 'REPLACE').restore(head, 0, older[1]!, 'REPLACE').exec()
    await until(async () => (await env.redis.xlen('orders')) >= ids.length, {
      message: 'all events to be there again',
    })
    expect((await env.ids('orders')).sort()).toEqual([...ids].sort())
  })

  test('does not begin where a person has to decide on something else as well: the relay halts', async ({ env }) => {
    const relay = await env.streamingRelay(REPAIR)
    await someEvents(env)
    await env.postgres.query(
      `insert into outrider.incident (lineage, kind, reason) select lineage, 'foreign', 'session_unknown' from outrider.lineage`,
    )
    await dropSlot(env)
    await relay.is({ role: 'halted' })
    expect(await env.ids('orders')).toHaveLength(5)
  })

  test('finds a slot that is dropped and created again after it was verified, and before it is read', async ({
    env,
  }) => {
    const first = await env.streamingRelay(REPAIR)
    const ids = await someEvents(env)
    await first.stop()
    // The session is recorded between the two, which waits for this lock.
    const locker = await env.database.connect()
    await locker.query('begin; lock table outrider.session in share mode')
    const relay = await env.relay(REPAIR)
    await until(async () => (await env.postgres.query(`select from ${LOCK_WAITS} where relation is not null`)).rowCount)
    ids.push(await env.insert('orders'))
    await env.postgres.query('select pg_drop_replication_slot($1)', [env.slot])
    await env.postgres.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [env.slot])
    await locker.query('commit')
    await locker.end()
    const [incident] = await repaired(env)
    expect(incident).toMatchObject({ reason: 'slot_ahead' })
    await relay.streaming()
    expect(await env.ids('orders')).toEqual(ids)
  })

  test.for([
    { what: 'deleted', lose: ['DEL'] },
    { what: 'deleted and created again by a consumer', lose: ['DEL', 'MKSTREAM'] },
  ])('puts back all events of a stream that is $what after its ids were read', async ({ lose }, { env }) => {
    const first = await env.streamingRelay(REPAIR)
    const ids = await someEvents(env)
    await checkpoint(env)
    await first.kill()
    ids.push(await env.insert('orders'))
    await advanceSlot(env)
    const held = await holdRepair(env, 'found')
    await env.relay(REPAIR)
    await held.reached()
    const loss = env.redis.multi().del('orders')
    if (lose.includes('MKSTREAM')) loss.xgroup('CREATE', 'orders', 'workers', '0', 'MKSTREAM')
    await loss.exec()
    await held.release()
    await putBack(env)
    expect(await env.ids('orders')).toEqual(ids)
  })

  test('of a stream whose rows are gone puts back nothing, once, and events flow, also after a restart', async ({
    env,
  }) => {
    const relay = await env.streamingRelay(REPAIR)
    await someEvents(env)
    await env.postgres.query('delete from outrider.outbox')
    await env.redis.del('orders')
    expect(await repaired(env)).toMatchObject([{ resolution: 'repaired: 0 events put back' }])
    await relay.streaming()
    const ids = [await env.insert('orders')]
    await saved(env, 1, ids[0])
    await relay.stop()
    const again = await env.streamingRelay(REPAIR)
    ids.push(await env.insert('orders'))
    await saved(env, 1, ids[1])
    expect(await env.ids('orders')).toEqual(ids)
    expect(await again.metric('outrider_sessions_total')).toBe(1)
    expect(await repaired(env)).toHaveLength(1)
  })

  test('that is held says in the metrics, /readyz, the log and the incident what was found, put back and remains, and how fast', async ({
    env,
  }) => {
    const { relay, held } = await heldWhilePuttingBack(env)
    // Only these 1,000 rows were handed on.
    const put = '1000 of 3000 events are put back, 2000 remaining, \\d+/s, about \\d+ s left\\.'
    await until(async () => new RegExp(put).test((await relay.status())?.message ?? ''), {
      message: () => `/readyz to say "${put}"`,
    })
    expect(await relay.metric('outrider_repair_events_found')).toBe(3_000)
    expect(await relay.metric('outrider_repair_events_put_back')).toBe(1_000)
    const [line] = await relay.logged(({ msg, events }) => msg === 'repair continues' && events === 1_000)
    expect(line).toMatchObject({ of: 3_000, remaining: 2_000, perSecond: expect.any(Number) })
    expect(line!.secondsLeft).toBeGreaterThan(0)
    const [open] = await listIncidents(env.postgres)
    const shown = await runCommand(incidents, env.database.url, {
      args: ['show', open!.id],
      config: { slot: env.slot },
    })
    // What was written before the repair was held; test/cli/incidents.test.ts has the rate and the time left.
    expect(shown.text).toMatch(/puts back what is missing: [\d,]+ of 3,000 events, [\d,]+ remaining/)
    await held.release()
    const [incident] = await repaired(env)
    expect(incident!.resolution).toBe('repaired: 3000 events put back')
  })

  test('waits while Redis has no memory for what it puts back, and continues where it was', async ({ env }) => {
    const { relay, ids, held } = await heldWhilePuttingBack(env)
    const sessions = async () => (await env.postgres.query('select from outrider.session')).rowCount ?? 0
    const before = await sessions()
    await env.redis.config('SET', 'maxmemory', '1')
    await held.release()
    await relay.is({ state: 'blocked', reason: 'redis_oom' })
    expect(await env.redis.xlen('orders')).toBeLessThan(ids.length)
    await env.redis.config('SET', 'maxmemory', '0')
    await repaired(env)
    expect(await env.ids('orders')).toEqual(ids)
    // That of the repair, and the one that streams afterwards.
    expect(await sessions()).toBe(before + 1)
  })

  test('ends within the grace period of a pod when it is stopped, and the next relay continues it', async ({ env }) => {
    const { relay, ids, held } = await heldWhilePuttingBack(env)
    const began = performance.now()
    expect(await relay.stop()).toBe(0)
    expect(performance.now() - began).toBeLessThan(10_000)
    expect(await listIncidents(env.postgres)).toMatchObject([{ reason: 'stream_behind', repairedAt: null }])
    await held.release()
    await env.relay(REPAIR)
    await repaired(env)
    expect(await env.ids('orders')).toEqual(ids)
  })

  test('that is killed when it has created the slot, and not recorded where that begins, loses nothing', async ({
    env,
  }) => {
    const first = await env.streamingRelay(REPAIR)
    const ids = await someEvents(env)
    await first.stop()
    await dropSlot(env)
    ids.push(await env.insert('orders'))
    const held = await holdRepair(env, 'slot')
    const relay = await env.relay(REPAIR)
    await held.reached()
    await relay.kill()
    ids.push(await env.insert('orders'))
    const { rows } = await env.postgres.query(
      'select confirmed_flush_lsn > confirmed_lsn as ahead from outrider.lineage join pg_replication_slots on slot_name = slot',
    )
    expect(rows).toEqual([{ ahead: true }])
    await held.rollBack()
    await env.relay(REPAIR)
    await repaired(env)
    await until(async () => (await env.ids('orders')).length === ids.length)
    expect(await env.ids('orders')).toEqual(ids)
  })

  test('that a person closes while it waits for a transaction disturbs no session, and that transaction is published', async ({
    env,
  }) => {
    const first = await env.streamingRelay(REPAIR)
    const ids = await someEvents(env)
    const open = await openTransaction(env, 2)
    await env.redis.flushall()
    await putBack(env)
    await first.streaming()
    const sessions = 'select from outrider.session'
    const before = (await env.postgres.query(sessions)).rowCount
    const [incident] = await listIncidents(env.postgres)
    await closeIncident(env.postgres, incident!.id)
    ids.push(await env.insert('orders'))
    await open.client.query('commit')
    await open.client.end()
    ids.push(...open.ids, await env.insert('orders'))
    await saved(env, 1, ids.at(-1))
    expect(await env.ids('orders')).toEqual(ids)
    expect((await env.postgres.query(sessions)).rowCount).toBe(before)
    await first.stop()
    const again = await env.streamingRelay(REPAIR)
    ids.push(await env.insert('orders'))
    await saved(env, 1, ids.at(-1))
    expect(await env.ids('orders')).toEqual(ids)
    expect(await again.metric('outrider_sessions_total')).toBe(1)
    expect(await listIncidents(env.postgres, { closed: true })).toMatchObject([{ resolution: 'closed by an operator' }])
  })
})

/** FLUSHALL, and the repair waits when it has handed on the first 1,000 of 3,000 events. */
async function heldWhilePuttingBack(env: RelayEnv) {
  const relay = await env.streamingRelay(REPAIR)
  await env.postgres.query(
    "insert into outrider.outbox (stream, type, data) select 'orders', 'test.happened', '{}' from generate_series(1, 3000)",
  )
  await until(async () => (await env.redis.xlen('orders')) === 3_000)
  const ids = await env.ids('orders')
  await saved(env, 1, ids.at(-1))
  // It sees them all. After FLUSHALL, and for a head that a repair has moved, none may count.
  await checkpoint(env)
  const held = await holdRepair(env, 'put_back')
  await env.redis.flushall()
  await held.reached()
  return { relay, ids, held }
}
