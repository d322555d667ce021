import { expect } from 'vitest'
import { setUp } from '../../src/postgres/setup/setup.js'
import { closeIncident } from '../../src/postgres/state/incidents.js'
import { needsProcess, startPostgres, startRedis, until } from '../../testkit/services/index.js'
import { dropSlot, expectAdopted, expectGap, expectStillness, isBefore18, running } from './gap-slot-env.js'
import { relayTest as test } from './relay-env.js'
import { advanceSlot } from './repair-env.js'

test.concurrent('the slot dropped while the relay runs: a gap that cannot be closed, and adopting continues', async ({
  env,
}) => {
  const { relay } = await running(env)
  await dropSlot(env)
  const incident = await expectGap(env, relay, 'slot_missing', 'outrider incidents show')
  await expectStillness(env, relay)
  await expect(closeIncident(env.postgres, incident)).rejects.toThrow('outrider adopt')
  await expectAdopted(env, relay)
})

test.concurrent('the slot advanced by hand: a gap', async ({ env }) => {
  const { relay } = await running(env)
  await relay.stop()
  await env.insert('orders')
  await advanceSlot(env)
  const next = await env.relay()
  await expectGap(env, next, 'slot_ahead', 'outrider incidents close')
  await expectStillness(env, next)
})

test.concurrent('the slot invalidated because it held too much WAL: a gap while Redis is still frozen', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres({ settings: { max_slot_wal_keep_size: '1MB' } })
  onTestFinished(() => server.remove())
  const redis = await startRedis()
  const env = await createEnv({ database: await server.createDatabase(), redis })
  const { relay } = await running(env)
  await redis.freeze()
  await env.insert('orders')
  await until(
    async () => {
      await env.postgres.query('select pg_switch_wal()')
      await env.insert('elsewhere')
      await env.postgres.query('checkpoint')
      const { rows } = await env.postgres.query('select wal_status from pg_replication_slots')
      return rows[0].wal_status === 'lost'
    },
    { message: 'the slot to be lost' },
  )
  const incident = await expectGap(env, relay, 'slot_lost', 'outrider incidents show')
  await redis.thaw()
  await expectStillness(env, relay)
  await expect(closeIncident(env.postgres, incident)).rejects.toThrow('outrider adopt')
  await expectAdopted(env, relay)
})

test.concurrent('the publication made again in a moment, with rows in between: what cannot be decoded before 18 is said, and adopting leads on', async ({
  env,
}) => {
  const { relay } = await running(env)
  await relay.stop()
  await env.postgres.query('drop publication outrider')
  await env.insert('orders')
  await env.postgres.query(
    "create publication outrider for table outrider.outbox with (publish = 'insert', publish_via_partition_root = true)",
  )
  const next = await env.relay()
  const incident = await expectGap(env, next, 'publication_changed', 'outrider incidents close')
  await closeIncident(env.postgres, incident)
  if (!(await isBefore18(env))) return next.streaming()
  await next.is({ role: 'halted', reason: 'publication_undecodable' })
  expect((await next.status())?.message).toContain('`outrider adopt` starts a new lineage')
  await expectAdopted(env, next)
})

test.concurrent('the table taken out of the publication and put back between two looks: a gap, for inserts may have passed unseen', async ({
  env,
}) => {
  const { relay, first } = await running(env)
  await env.postgres.query('alter publication outrider drop table outrider.outbox')
  const unseen = await env.insert('orders')
  await env.postgres.query('alter publication outrider add table outrider.outbox')
  const incident = await expectGap(env, relay, 'publication_changed', 'outrider incidents close')
  const newer = await expectStillness(env, relay)
  await closeIncident(env.postgres, incident)
  await relay.streaming()
  await until(async () => (await env.ids('orders')).includes(newer))
  // The hole is real: that is why it is told.
  expect(await env.ids('orders')).toEqual([first, newer])
  expect(await env.ids('orders')).not.toContain(unseen)
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
    lockTimeout: 60_000,
  })
  await closeIncident(env.postgres, incident)
  await relay.streaming()
  const id = await env.insert('orders')
  await until(async () => (await env.ids('orders')).includes(id))
  expect((await env.ids('orders'))[0]).toBe(first)
})
