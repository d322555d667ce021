import { expect } from 'vitest'
import { adopt, planAdoption } from '../../src/postgres/adoption.js'
import { closeIncident } from '../../src/postgres/incidents.js'
import { storedLineage } from '../../src/postgres/lineage.js'
import { setUp } from '../../src/postgres/setup.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, startPostgres, startRedis, until } from '../../testkit/services/index.js'
import { test } from './fixture.js'
import type { Scenario } from './scenario.js'

/** A relay that has published one event, whose head is confirmed. */
async function running(s: Scenario): Promise<{ relay: RelayProcess; first: string }> {
  const relay = await s.relay()
  await relay.streaming()
  const first = await s.insert('orders')
  await until(async () => (await s.ids('orders')).length === 1)
  return { relay, first }
}

/** Halted for this reason, not ready, with one open incident that is a gap; its id. */
async function expectGap(s: Scenario, relay: RelayProcess, reason: string, advice: string): Promise<string> {
  await relay.is({ role: 'halted', reason }, 10_000)
  expect(await relay.status()).toMatchObject({ code: 503, message: expect.stringContaining(advice) })
  const { rows } = await s.postgres.query(
    'select id::text, kind, reason from outrider.incident where closed_at is null order by id',
  )
  expect(rows).toEqual([{ id: expect.any(String), kind: 'gap', reason }])
  return rows[0].id
}

/** Nothing newer is published, however often the relay looks again. */
async function expectStillness(s: Scenario, relay: RelayProcess): Promise<string> {
  const before = await s.ids('orders')
  const id = await s.insert('orders')
  const errors = (await relay.metric('outrider_errors_total')) as number
  await until(async () => ((await relay.metric('outrider_errors_total')) as number) > errors, {
    message: 'the relay to look again',
  })
  expect(await s.ids('orders')).toEqual(before)
  return id
}

/** Drops the slot under a running relay. */
async function dropSlot(s: Scenario): Promise<void> {
  await until(async () => {
    await s.postgres.query('select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1', [
      s.slot,
    ])
    await s.postgres.query('select pg_drop_replication_slot($1)', [s.slot])
    return true
  })
}

async function expectAdopted(s: Scenario, relay: RelayProcess): Promise<void> {
  const stored = await storedLineage(s.postgres, s.slot)
  await adopt(s.postgres, await planAdoption(s.postgres, stored!))
  await relay.streaming()
  const id = await s.insert('orders')
  await until(async () => (await s.ids('orders')).at(-1) === id)
}

test.concurrent('the slot dropped while the relay runs: a gap that cannot be closed, and adopting goes on', async ({
  scenario,
}) => {
  const s = await scenario()
  const { relay } = await running(s)
  await dropSlot(s)
  const incident = await expectGap(s, relay, 'slot_missing', 'outrider incidents show')
  await expectStillness(s, relay)
  await expect(closeIncident(s.postgres, incident)).rejects.toThrow('outrider adopt')
  await expectAdopted(s, relay)
})

test.concurrent('the slot dropped and made again by hand: a gap, never a silent new start; closing it accepts what was passed over', async ({
  scenario,
}) => {
  const s = await scenario()
  const { relay, first } = await running(s)
  await relay.stop()
  const missed = await s.insert('orders')
  await s.postgres.query('select pg_drop_replication_slot($1)', [s.slot])
  await s.postgres.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [s.slot])
  const next = await s.relay()
  const incident = await expectGap(s, next, 'slot_ahead', 'outrider incidents close')
  const newer = await expectStillness(s, next)
  await closeIncident(s.postgres, incident, 'the missed one does not matter')
  await next.streaming()
  await until(async () => (await s.ids('orders')).length === 2)
  expect(await s.ids('orders')).toEqual([first, newer])
  expect(await s.ids('orders')).not.toContain(missed)
})

test.concurrent('the slot advanced by hand: a gap', async ({ scenario }) => {
  const s = await scenario()
  const { relay } = await running(s)
  await relay.stop()
  await s.insert('orders')
  await s.postgres.query('select pg_replication_slot_advance($1, pg_current_wal_lsn())', [s.slot])
  const next = await s.relay()
  await expectGap(s, next, 'slot_ahead', 'outrider incidents close')
  await expectStillness(s, next)
})

test.concurrent('the slot invalidated because it held too much WAL: a gap while Redis is still frozen', async ({
  scenario,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres({ settings: { max_slot_wal_keep_size: '1MB' } })
  onTestFinished(() => server.remove())
  const redis = await startRedis()
  const s = await scenario({ database: await server.createDatabase(), redis })
  const { relay } = await running(s)
  await redis.freeze()
  await s.insert('orders')
  await until(
    async () => {
      await s.postgres.query('select pg_switch_wal()')
      await s.insert('elsewhere')
      await s.postgres.query('checkpoint')
      const { rows } = await s.postgres.query('select wal_status from pg_replication_slots')
      return rows[0].wal_status === 'lost'
    },
    { message: 'the slot to be lost' },
  )
  const incident = await expectGap(s, relay, 'slot_lost', 'outrider incidents show')
  await redis.thaw()
  await expectStillness(s, relay)
  await expect(closeIncident(s.postgres, incident)).rejects.toThrow('outrider adopt')
  await expectAdopted(s, relay)
})

test.concurrent('the publication dropped while the relay runs: a gap within seconds; setup and closing it go on', async ({
  scenario,
}) => {
  const s = await scenario()
  const { relay, first } = await running(s)
  await s.postgres.query('drop publication outrider')
  const incident = await expectGap(s, relay, 'publication_missing', 'outrider setup')
  await expectStillness(s, relay)
  await expect(closeIncident(s.postgres, incident)).rejects.toThrow('outrider setup')
  await setUp(s.postgres, {
    slot: s.slot,
    publication: 'outrider',
    source: undefined,
    outboxTable: 'outrider.outbox',
    partitions: new Map(),
  })
  await closeIncident(s.postgres, incident)
  await relay.streaming()
  const id = await s.insert('orders')
  await until(async () => (await s.ids('orders')).includes(id))
  expect((await s.ids('orders'))[0]).toBe(first)
})

test.concurrent('the table taken out of the publication and put back between two looks: a gap, for inserts may have passed unseen', async ({
  scenario,
}) => {
  const s = await scenario()
  const { relay, first } = await running(s)
  await s.postgres.query('alter publication outrider drop table outrider.outbox')
  const unseen = await s.insert('orders')
  await s.postgres.query('alter publication outrider add table outrider.outbox')
  const incident = await expectGap(s, relay, 'publication_changed', 'outrider incidents close')
  const newer = await expectStillness(s, relay)
  await closeIncident(s.postgres, incident)
  await relay.streaming()
  await until(async () => (await s.ids('orders')).includes(newer))
  // The hole is real: that is why it is told.
  expect(await s.ids('orders')).toEqual([first, newer])
  expect(await s.ids('orders')).not.toContain(unseen)
})
