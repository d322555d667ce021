import { afterAll, beforeAll, expect, test } from 'vitest'
import { parseLsn } from '../../src/postgres/client/lsn.js'
import { mayTrim, saveHorizon } from '../../src/postgres/state/horizons.js'
import { type BucketsEnv, CURRENT, createBucketsEnv } from './buckets-env.js'

let env: BucketsEnv
let own: { lineage: string; session: string }

beforeAll(async () => {
  env = await createBucketsEnv()
  const { rows } = await env.client.query(
    `insert into outrider.session (session, lineage, hostname, pid, version, timeline)
     select gen_random_uuid(), lineage, '', 0, '0', 1 from outrider.lineage returning session, lineage`,
  )
  own = rows[0]
})

afterAll(() => env.close())

const horizonOf = async (key: string) =>
  (await env.client.query('select lsn::text from outrider.horizon where stream_key = $1', [key])).rows[0]?.lsn

test('the horizon is the newest checkpoint from before the first event that stays, if that is a row of this database', async () => {
  const older = await env.insert(CURRENT)
  const lsn = await env.checkpoint(0)
  const first = await env.insert(CURRENT - 3)
  const save = (key: string, id: string | undefined) =>
    saveHorizon(env.client, own, key, { lsn: parseLsn('FFFF/0'), first: id })
  await save('own', first)
  await save('empty', undefined)
  // It says of itself that it was committed after the checkpoint: the LSN is of another server, from which the row was restored.
  await save('restored', older)
  await save('unknown', crypto.randomUUID())
  expect(await Promise.all(['own', 'empty', 'restored', 'unknown'].map(horizonOf))).toEqual([
    lsn,
    lsn,
    undefined,
    undefined,
  ])
})

test('nothing is trimmed, and no horizon saved, while a gap is open or another session leads', async () => {
  expect(await mayTrim(env.client, own)).toBe(true)
  const refused = async () => {
    expect(await mayTrim(env.client, own)).toBe(false)
    await saveHorizon(env.client, own, 'refused', { lsn: parseLsn('FFFF/0'), first: undefined })
    expect(await horizonOf('refused')).toBeUndefined()
  }
  await env.client.query(
    "insert into outrider.incident (lineage, kind, reason) select lineage, 'gap', 'stream_behind' from outrider.lineage",
  )
  await refused()
  await env.client.query('update outrider.incident set closed_at = now()')
  await env.client.query(
    `insert into outrider.session (session, lineage, hostname, pid, version, timeline)
     select gen_random_uuid(), lineage, '', 0, '0', 1 from outrider.lineage`,
  )
  await refused()
})
