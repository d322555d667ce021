import { expect } from 'vitest'
import { until } from '../../testkit/services/index.js'
import { relayTest as test } from '../relay/relay-env.js'
import { createAuditEnv } from './audit-env.js'

const TABLE = 'public.events'
const CREATE = `create table ${TABLE} (
  id text, kind text, area char(10), body text, urgent boolean, created timestamp default (clock_timestamp() at time zone 'utc'),
  state text default 'new'
) partition by range (id);
create table public.events_a partition of ${TABLE} for values from ('a') to ('m');
create table public.events_n partition of ${TABLE} default`
const columns = { id: 'id', type: 'kind', subject: 'area', data: 'body', correlationId: 'urgent' }
const yaml = (time: string) => `
outbox:
  table: ${TABLE}
  stream: 'events.{kind}'
  columns: { id: id, type: kind, subject: area, data: body, correlationId: urgent${time} }
`

test('a mapped table is compared by what its columns give, whatever was updated next to them', async ({
  configFile,
  onTestFinished,
}) => {
  const env = await createAuditEnv({ outbox: { table: TABLE, create: CREATE } })
  onTestFinished(() => env.close())
  const add = (id: string) =>
    env.postgres.query(`insert into ${TABLE} values ($1, 'made', 'area', '{ "n" :1}', true)`, [id])
  const outbox = { table: TABLE, stream: 'events.{kind}', columns: { ...columns, time: 'created' } }
  const undated = { ...outbox, columns }
  // From before the lineage was set up, as far as anybody can know.
  await add('before')
  await env.checkpoint()
  await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(yaml(', time: created')) })
  const published = async (...ids: string[]) => {
    for (const id of ids) await add(id)
    await until(async () => (await env.ids('events.made')).includes(ids.at(-1) as string))
    await env.checkpoint()
  }
  await published('before-2', 'zoo')
  await published('kept', 'lost', 'other')
  expect(await env.audit({}, { outbox })).toMatchObject({ code: 0, report: { rows: 6, entries: 6, counts: NONE } })

  for (const id of ['before', 'lost']) await env.redis.xdel('events.made', await env.entryOf('events.made', id))
  await env.postgres.query(`update ${TABLE} set state = 'done', body = case when id = 'zoo' then '2' else body end`)
  const { code, report } = await env.audit({}, { outbox })
  expect([code, report.counts, report.notKnown.before]).toEqual([4, { missing: 0, extra: 0, altered: 1 }, 1])
  // Which the update has made young again: it waits for the next checkpoint.
  expect(report.notKnown.unconfirmed).toBe(1)
  await env.checkpoint()
  const later = await env.audit({}, { outbox })
  expect(later.report.findings).toMatchObject([
    { kind: 'missing', stream: 'events.made', id: 'lost' },
    { kind: 'altered', id: 'zoo', fields: ['data'] },
  ])
  const blind = await env.audit({}, { outbox: undated })
  expect([blind.report.counts.missing, blind.report.notKnown.undated]).toEqual([0, 2])
  await expect(env.audit()).rejects.toThrow(`expected ${TABLE}`)
})

const NONE = { missing: 0, extra: 0, altered: 0 }
