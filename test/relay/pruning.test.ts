import { expect } from 'vitest'
import { until } from '../../testkit/services/index.js'
import { mapped, running, yaml } from './outbox-table-env.js'
import { relayTest as test } from './relay-env.js'

test('incidents that were closed 90 days ago are deleted, with the streams of a gap, and old checkpoints, also with a mapped table', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  await env.postgres.query(
    `with gap as (
       insert into outrider.incident (lineage, kind, reason, closed_at)
       select lineage, 'gap', 'stream_behind', now() - age from outrider.lineage, unnest(array['91 days', '89 days']::interval[]) as age
       returning id
     )
     insert into outrider.gap_stream (incident, stream_key, detail) select id, 'orders', '{}' from gap`,
  )
  await env.postgres.query(
    `insert into outrider.checkpoint (lineage, lsn, snapshot, taken_at)
     select lineage, '0/1'::pg_lsn + n, '3:3:', date_trunc('hour', now() - interval '30 days') + make_interval(mins => n)
     from outrider.lineage, generate_series(1, 3) as n`,
  )
  await running(env, await configFile(yaml()))
  const left = `select count(*)::integer as streams from outrider.incident left join outrider.gap_stream on incident = id group by id`
  await until(async () => (await env.postgres.query(left)).rowCount === 1, {
    message: 'the older incident to be deleted',
  })
  expect((await env.postgres.query(left)).rows).toEqual([{ streams: 1 }])
  const old = "select lsn::text from outrider.checkpoint where taken_at < now() - interval '1 day' order by lsn"
  // The first one stays as well.
  expect((await env.postgres.query(old)).rows).toEqual([{ lsn: '0/2' }, { lsn: '0/4' }])
})

test('a relay that may not delete them publishes, and says so once', async ({ env }) => {
  await env.postgres.query('revoke delete on outrider.incident from outrider_relay')
  const relay = await env.streamingRelay()
  await relay.logged(({ msg }) => String(msg).startsWith('closed incidents stay: the role of the relay may not delete'))
  const id = await env.insert('orders')
  await until(async () => (await env.ids('orders'))[0] === id, { message: 'the event to be published' })
})
