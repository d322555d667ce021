import { expect } from 'vitest'
import { setUp } from '../../src/postgres/setup/setup.js'
import { closeIncident } from '../../src/postgres/state/incidents.js'
import { until } from '../../testkit/services/index.js'
import { expectAdopted, expectGap, expectStillness, isBefore18, running } from './gap-slot-env.js'
import { relayTest as test } from './relay-env.js'

test.concurrent('the slot dropped and made again by hand: a gap, never a silent new start; closing it accepts what was passed over', async ({
  env,
}) => {
  const { relay, first } = await running(env)
  await relay.stop()
  const missed = await env.insert('orders')
  // The walsender ends a moment after its connection.
  const released = 'select from pg_replication_slots where slot_name = $1 and not active'
  await until(async () => (await env.postgres.query(released, [env.slot])).rowCount === 1)
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

test.concurrent.for([
  ['rows were written meanwhile', true],
  ['nothing was written meanwhile', false],
] as const)(
  'the publication dropped while no relay runs, and created again by setup (%s): closing the gap does what its advice says',
  async ([, written], { env }) => {
    const { relay, first } = await running(env)
    await relay.stop()
    const before = await env.insert('orders')
    await env.postgres.query('drop publication outrider')
    if (written) await env.insert('orders')
    const { findings } = await setUp(env.postgres, {
      slot: env.slot,
      publication: 'outrider',
      source: undefined,
      outboxTable: 'outrider.outbox',
      partitions: new Map(),
      lockTimeout: 60_000,
    })
    expect(findings).toEqual([expect.stringContaining('was missing and has been created again')])
    const next = await env.relay()
    const incident = await expectGap(env, next, 'publication_missing', 'outrider incidents close')
    const { message } = (await next.status())!
    const before18 = await isBefore18(env)
    expect(message?.includes('others halt with `publication_undecodable`, and need `outrider adopt`')).toBe(before18)
    await closeIncident(env.postgres, incident)
    if (written && before18) {
      await next.is({ role: 'halted', reason: 'publication_undecodable' })
      return expectAdopted(env, next)
    }
    await next.streaming()
    const newer = await env.insert('orders')
    await until(async () => (await env.ids('orders')).includes(newer))
    expect(await env.ids('orders')).toEqual([first, before, newer])
  },
)
