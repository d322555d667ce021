import { expect } from 'vitest'
import { formatLsn } from '../../src/postgres/client/lsn.js'
import { saveCheckpoint, takeCheckpoint } from '../../src/postgres/state/checkpoints.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'
import { REPAIR, repaired, someEvents } from './repair-env.js'

test('while an ALTER PUBLICATION waits for a synchronous standby no checkpoint is saved: what passes unseen meanwhile is put back', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const env = await createEnv({ database: await server.createDatabase() })
  await env.streamingRelay(REPAIR)
  const ids = await someEvents(env)
  const save = async () => {
    const taken = await takeCheckpoint(env.postgres)
    ids.push(await env.insert('orders'))
    const isConfirmed = 'select from outrider.lineage where confirmed_lsn >= $1'
    await until(async () => (await env.postgres.query(isConfirmed, [formatLsn(taken.lsn)])).rowCount)
    const { lineage } = (await currentLineage(env.postgres, env.slot))!
    const { rows } = await env.postgres.query(
      'select session::text as session from outrider.session order by number desc',
    )
    await saveCheckpoint(env.postgres, lineage, rows[0].session, taken)
  }
  /** In how many checkpoints the event counts as published. */
  const countedBy = async (id: string | undefined) => {
    const sees =
      'select from outrider.checkpoint, outrider.outbox where id = $1 and pg_visible_in_snapshot(txid, snapshot)'
    return (await env.postgres.query(sees, [id])).rowCount
  }
  await save()
  expect(await countedBy(ids.at(-2))).toBeGreaterThan(0)

  await server.set({ synchronous_standby_names: 'nobody' })
  await env.postgres.query('set synchronous_commit = local')
  const owner = await env.database.connect()
  const altering = owner.query("alter publication outrider set (publish = 'update')")
  const waiting = "select pid from pg_stat_activity where wait_event = 'SyncRep' and query like 'alter publication%'"
  await until(async () => (await server.query(waiting)).length)
  const unseen = await env.insert('orders')
  ids.push(unseen)
  await save()
  expect(await countedBy(unseen)).toBe(0)

  await server.query(`select pg_cancel_backend(pid) from (${waiting}) as waiting`)
  await altering
  await owner.query("set synchronous_commit = local; alter publication outrider set (publish = 'insert')")
  await owner.end()
  await repaired(env)
  expect(await env.ids('orders')).toEqual(ids)
})
