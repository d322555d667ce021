import { expect } from 'vitest'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import { needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'

test('a stream whose key holds another type: its rows become incidents, everything else flows, and so does it once the key is gone', async ({
  env,
}) => {
  await env.redis.set('taken', 'a string')
  const relay = await env.streamingRelay()
  const rejected: string[] = []
  const flowing: string[] = []
  for (let n = 0; n < 5; n++) {
    rejected.push(await env.insert('taken', { n, text: 'Blåbær' }, `subject-${n}`))
    flowing.push(await env.insert('orders', { n }))
  }
  await until(async () => (await env.ids('orders')).length === 5, { message: 'the other stream to flow' })
  expect(await env.ids('orders')).toEqual(flowing)
  const incidents = await until(async () => {
    const found = await listIncidents(env.postgres)
    return found.length === 5 && found.reverse()
  })
  expect(incidents).toMatchObject(
    rejected.map((eventId, n) => ({
      kind: 'rejected',
      reason: 'wrong_type',
      stream: 'taken',
      eventId,
      row: { id: eventId, type: 'test.happened', subject: `subject-${n}`, data: JSON.stringify({ n, text: 'Blåbær' }) },
    })),
  )
  expect(await env.redis.get('taken')).toBe('a string')
  await relay.streaming()
  await until(() => env.isConfirmed('orders'), { message: 'the slot to move on' })

  await env.redis.del('taken')
  const probed = async () => (await env.redis.exists('taken')) === 1
  const later: string[] = []
  await until(async () => {
    later.push(await env.insert('taken', { later: true }))
    return probed()
  })
  await until(async () => (await env.ids('taken')).at(-1) === later.at(-1))
  const known = await listIncidents(env.postgres)
  const held = known.map(({ eventId }) => eventId)
  expect(await env.ids('taken')).toEqual(later.filter((id) => !held.includes(id)))
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
})

test('a row larger than Redis takes in one piece becomes an incident, and its neighbours continue', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis({ settings: { 'proto-max-bulk-len': '1mb' } })
  const env = await createEnv({ redis })
  const relay = await env.streamingRelay({
    OUTRIDER_MAX_EVENT_BYTES: '8MiB',
    OUTRIDER_LIMITS_BATCH_BYTES: '16MiB',
    OUTRIDER_LIMITS_INFLIGHT_BYTES: '32MiB',
  })
  const large = JSON.stringify({ text: 'x'.repeat(2_000_000) })
  const { rows } = await env.postgres.query(
    `with inserted as (
       insert into outrider.outbox (stream, type, subject, data)
       select 'orders', 'test.happened', n::text, (case when n % 3 = 0 then $1 else '{}' end)::json
         from generate_series(1, 7) n returning id, subject)
     select id from inserted order by subject`,
    [large],
  )
  const ids = rows.map(({ id }) => id as string)
  await until(async () => (await env.ids('orders')).length === 5, {
    message: () => `the neighbours to arrive\n${relay.tail(10)}`,
  })
  expect(await env.ids('orders')).toEqual([0, 1, 3, 4, 6].map((at) => ids[at]))
  const incidents = await until(async () => {
    const found = await listIncidents(env.postgres)
    return found.length === 2 && found.reverse()
  })
  expect(incidents.map(({ reason, eventId }) => [reason, eventId])).toEqual([
    ['too_large_for_redis', ids[2]],
    ['too_large_for_redis', ids[5]],
  ])
  expect(incidents.map(({ row }) => row)).toEqual(
    [2, 5].map((at) => expect.objectContaining({ id: ids[at], data: large })),
  )
  await until(() => env.isConfirmed('orders'), { message: 'the slot to move on' })
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
})
