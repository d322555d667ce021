import { describe, expect } from 'vitest'
import { republish } from '../../src/cli/republish.js'
import { type RelayEnv, relayTest as test } from '../relay/relay-env.js'
import { runRepublish } from '../relay/republish-env.js'
import { runCommand } from '../support/command.js'

const NOWHERE = 'postgres://127.0.0.1:1/none'
const ID = '01a00000-0000-7000-8000-000000000001'

describe('outrider republish refuses', () => {
  test.for([
    [{}, 'Expected --ids, --since, --stream or --type, found none'],
    [{ ids: ['1'] }, '--ids: expected ids of events, which are UUIDs, found "1"'],
    [{ ids: [ID], stream: 'orders' }, 'Expected --ids, or --since, --stream and --type; found both'],
    [{ stream: 'outrider:{x}' }, '--stream: expected the name of a stream'],
    [{ type: 'test.happened', to: 'a b' }, '--to: expected the name of a stream, found "a b"'],
    [{ since: 'yesterday' }, '--since: expected a duration'],
    [{ cancel: 'x' }, '--cancel: expected the number of a request'],
    [{ cancel: '7', stream: 'orders' }, 'Expected --cancel alone'],
  ] as const)('%j', async ([flags, message]) => {
    const run = runCommand(republish, NOWHERE, { flags: flags as unknown as Record<string, string> })
    await expect(run).rejects.toMatchObject({ exitCode: 2, message: expect.stringContaining(message) })
  })

  test('a stream, a type, an id or a request that is not there, and requests nothing', async ({ env }) => {
    await env.insert('orders')
    await publishedTo(env, 'orders')
    const refused = async (flags: Record<string, string | string[]>, exitCode: number, message: string) =>
      expect(runRepublish(env, flags)).rejects.toMatchObject({ exitCode, message: expect.stringContaining(message) })
    await refused({ stream: 'ordes' }, 2, '--stream: found no stream "ordes". Did you mean orders?')
    await refused({ type: 'test.hapened' }, 2, '--type: found no type "test.hapened". Did you mean test.happened?')
    await refused({ ids: [ID] }, 1, `Expected rows of all events in outrider.outbox, found none of ${ID}.`)
    await refused({ cancel: '7' }, 1, 'Expected a request of this lineage, found none with the number 7')
    expect((await env.postgres.query('select from outrider.request')).rowCount).toBe(0)
  })
})

test('a dry run counts what the filters select together, and changes nothing', async ({ env }) => {
  await env.postgres.query(
    `insert into outrider.outbox (stream, type, data, created_at) values
       ('orders', 'a', '{}', now() - interval '3 hours'), ('orders', 'a', '{}', now()), ('orders', 'b', '{}', now()), ('users', 'a', '{}', now())`,
  )
  await publishedTo(env, 'payments')
  const count = async (flags: Record<string, string>) => {
    const { text } = await runRepublish(env, { ...flags, 'dry-run': true })
    const { rows, selected } = JSON.parse(text) as {
      rows: number
      selected: { stream: string; type: string; rows: number }[]
    }
    return [rows, selected.map(({ stream, type, rows }) => `${stream} ${type} ${rows}`)]
  }
  expect(await count({ stream: 'orders' })).toEqual([3, ['orders a 2', 'orders b 1']])
  expect(await count({ type: 'a', since: '1h' })).toEqual([2, ['orders a 1', 'users a 1']])
  expect(await count({ stream: 'orders', type: 'a', since: '1h' })).toEqual([1, ['orders a 1']])
  // A stream that is known, and has no such row.
  expect(await count({ stream: 'payments' })).toEqual([0, []])
  const { text } = await runRepublish(env, { stream: 'orders', to: 'replay', 'dry-run': true }, false)
  expect(text).toMatch(/orders +a +2 .*\n.*\n\n3 rows would be appended to stream replay again\./)
  expect((await env.postgres.query('select from outrider.request')).rowCount).toBe(0)
})

test('checkpoints narrow what is read, and leave out no row that `--since` selects', async ({ env }) => {
  const rowsAt = (ago: string) =>
    env.postgres.query(
      "insert into outrider.outbox (stream, type, data, created_at) values ('orders', 'a', '{}', now() - $1::interval)",
      [ago],
    )
  const checkpointAt = (ago: string) =>
    env.postgres.query(
      `insert into outrider.checkpoint (lineage, lsn, snapshot, taken_at)
       select lineage, pg_current_wal_insert_lsn(), pg_current_snapshot(), now() - $1::interval from outrider.lineage`,
      [ago],
    )
  await rowsAt('3 hours')
  await checkpointAt('2 hours')
  await rowsAt('55 minutes')
  // Its clock is ahead of those of the applications.
  await checkpointAt('59 minutes')
  await rowsAt('1 minute')
  const { text } = await runRepublish(env, { since: '1h', 'dry-run': true })
  expect(JSON.parse(text).rows).toBe(2)
})

/** As if the lineage had published to this stream. */
async function publishedTo(env: RelayEnv, stream: string): Promise<void> {
  await env.postgres.query(
    `with begun as (
       insert into outrider.session (session, lineage, hostname, pid, version, timeline)
       select gen_random_uuid(), lineage, 'h', 1, '1', 1 from outrider.lineage returning session, lineage
     )
     insert into outrider.head (lineage, session, stream_key, position, event_id, entry_id)
     select lineage, session, $1, '00000001-0000000000001000-00000000', 'e', '1-1' from begun`,
    [stream],
  )
}
