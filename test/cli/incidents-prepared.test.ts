import { expect, test } from 'vitest'
import { incidents } from '../../src/cli/incidents.js'
import { setup } from '../../src/cli/setup.js'
import { recordLostStreams } from '../../src/postgres/state/gaps.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { needsProcess, startPostgres } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { holdLock } from '../support/lock-holder.js'

test('a repaired gap that waits for prepared transactions names them, so that they can be ended', async ({
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres({ syncs: false, settings: { max_prepared_transactions: '5' } })
  onTestFinished(() => server.remove())
  const database = await server.createDatabase()
  await runCommand(setup, database.url)
  const client = await database.connect()
  onTestFinished(() => client.end())
  const { lineage } = (await currentLineage(client, `outrider_${database.name}`))!
  const id = await recordLostStreams(client, { lineage, walsender: await holdLock(client) }, [
    { key: 'orders', snapshot: null, since: null, head: null, detail: {} },
  ])

  await client.query('begin')
  const { rows } = await client.query<{ xid: string }>('select pg_current_xact_id()::text as xid')
  await client.query("prepare transaction 'it''s open'")
  await client.query(
    `with s as (insert into outrider.session (session, lineage, hostname, pid, version, timeline)
       values (gen_random_uuid(), $1, 'h', 1, '1', 1) returning session)
     insert into outrider.repair (lineage, session, timeline, snapshot, until_lsn, unsettled, every_stream, found, put_back)
     select $1, session, 1, pg_current_snapshot(), pg_current_wal_lsn(), array[$2, '3']::text[]::xid8[], false, 7, 7 from s`,
    [lineage, rows[0]!.xid],
  )
  await client.query('update outrider.incident set repaired_at = clock_timestamp()')

  const next = async () =>
    /^next +(.*)$/m.exec((await runCommand(incidents, database.url, { args: ['show', id] })).text)?.[1]
  const waits = '7 events put back. It is closed when 2 transactions that were open then have ended.'
  expect(await next()).toBe(
    `${waits} Prepared, and to be ended with \`commit prepared\` or \`rollback prepared\`: 'it''s open'.`,
  )
  await client.query("rollback prepared 'it''s open'")
  expect(await next()).toBe(waits)
})
