import { expect, onTestFinished, test } from 'vitest'
import { cancelStandbyWait, recordSession } from '../../src/postgres/state/sessions.js'
import { needsProcess, startPostgres } from '../../testkit/services/index.js'
import { createRelayEnv } from '../relay/relay-env.js'

const PATIENCE_MS = 300

test('the row of a session waits for a synchronous standby, for a while, although the connection does not', async (context) => {
  needsProcess(context)
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const env = await createRelayEnv({ database: await server.createDatabase() })
  onTestFinished(() => env.close())
  const { rows } = await env.postgres.query('select lineage from outrider.lineage')
  await env.postgres.query('set synchronous_commit = local')
  const record = async () => {
    const session = crypto.randomUUID()
    const row = { session, lineage: rows[0].lineage, version: '0.0.0', timeline: 1 }
    const waits: unknown[][] = []
    const cancelled = await recordSession(
      env.postgres,
      row,
      async (pid) => {
        waits.push(await server.query(`select from pg_stat_activity where pid = ${pid} and wait_event = 'SyncRep'`))
        await server.query(cancelStandbyWait(pid))
      },
      PATIENCE_MS,
    )
    const found = await env.postgres.query('select from outrider.session where session = $1', [session])
    return { cancelled, waits: waits.map(({ length }) => length), found: found.rowCount }
  }

  expect(await record()).toEqual({ cancelled: false, waits: [], found: 1 })
  await server.set({ synchronous_standby_names: 'nobody' })
  expect(await record()).toEqual({ cancelled: true, waits: [1], found: 1 })
  expect((await env.postgres.query('show synchronous_commit')).rows).toEqual([{ synchronous_commit: 'local' }])

  // The server's own setting, whatever it is.
  await server.set({ synchronous_commit: 'local' })
  expect(await record()).toEqual({ cancelled: false, waits: [], found: 1 })

  // But not lost in a crash of this server: its heads would be a stranger's.
  await server.set({ synchronous_commit: 'off', wal_writer_delay: '10s' })
  const [before] = await server.query<{ lsn: string }>('select pg_current_wal_insert_lsn() as lsn')
  expect(await record()).toEqual({ cancelled: false, waits: [], found: 1 })
  expect(await server.query(`select pg_current_wal_flush_lsn() > '${before?.lsn}' as flushed`)).toEqual([
    { flushed: true },
  ])
})
