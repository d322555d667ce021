import { expect } from 'vitest'
import { closeIncident } from '../../src/postgres/incidents.js'
import { setUp } from '../../src/postgres/setup.js'
import { until } from '../../testkit/services/index.js'
import { expectAdopted, expectGap, expectStillness, isBefore18, running } from './gap-slot-env.js'
import { relayTest as test } from './relay-env.js'

test.concurrent('the slot dropped and made again by hand: a gap, never a silent new start; closing it accepts what was passed over', async ({
  env,
}) => {
  const { relay, first } = await running(env)
  await relay.stop()
  const missed = await env.insert('orders')
  await env.postgres.query('select pg_drop_replication_slot($1)', [env.slot])
  await env.postgres.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [env.slot])
  const next = await env.relay()
  const incident = await expectGap(env, next, 'slot_ahead', 'outrider incidents close')
  const newer = await expectStillness(env, next)
  await closeIncident(env.postgres, incident, 'the missed one does not matter')
  await next.streaming()
  await until(async () => (await env.ids('orders')).length === 2)
  expect(await env.ids('orders')).toEqual([first, newer])
  expect(await env.ids('orders')).not.toContain(missed)
})

test.concurrent('the publication dropped while the relay runs: a gap within seconds; from 18 on setup and closing it lead on, before 18 adopting', async ({
  env,
}) => {
  const { relay, first } = await running(env)
  await env.postgres.query('drop publication outrider')
  const before18 = await isBefore18(env)
  const advice = before18 ? '`outrider adopt`' : '`outrider setup`'
  const incident = await expectGap(env, relay, 'publication_missing', advice)
  await expectStillness(env, relay)
  if (before18) {
    await expect(closeIncident(env.postgres, incident)).rejects.toThrow('`outrider adopt` starts a new lineage')
    return expectAdopted(env, relay)
  }
  await expect(closeIncident(env.postgres, incident)).rejects.toThrow('outrider setup')
  await setUp(env.postgres, {
    slot: env.slot,
    publication: 'outrider',
    source: undefined,
    outboxTable: 'outrider.outbox',
    partitions: new Map(),
  })
  await closeIncident(env.postgres, incident)
  await relay.streaming()
  const id = await env.insert('orders')
  await until(async () => (await env.ids('orders')).includes(id))
  expect((await env.ids('orders'))[0]).toBe(first)
})
