import { expect } from 'vitest'
import { DeadLetter } from '../../src/consumer/index.js'
import { until } from '../../testkit/services/index.js'
import { consumerTest } from '../consumer/consumer-env.js'
import { Happened } from '../consumer/happened.js'
import { relayTest as test } from '../relay/relay-env.js'

// Logs are read by more people than events are: what an event holds is not in them, at any level.

const CARD = 'card-4111111111111111'
const PERSON = 'person-jane-doe'

test('a relay logs nothing of what an event holds, not of one that it rejects either', async ({ env }) => {
  const relay = await env.streamingRelay({ OUTRIDER_LOG_LEVEL: 'trace', OUTRIDER_MAX_EVENT_BYTES: '1KiB' })
  const insert = (length: number) =>
    env.postgres.query("select outrider.publish('orders', 'test.happened', $1, subject => $2, headers => $3)", [
      JSON.stringify({ card: CARD, more: 'x'.repeat(length) }),
      PERSON,
      JSON.stringify({ who: PERSON }),
    ])
  await insert(1)
  await insert(2_000)
  const rejected = 'select id, row::text from outrider.rejected'
  const { rows } = await until(async () => {
    const found = await env.postgres.query(rejected)
    return found.rowCount === 1 && found
  })
  // There it is, whole, for whoever may read that table.
  expect(rows[0].row).toContain(CARD)
  await until(async () => (await env.ids('orders')).length === 1)
  // Of what Redis refuses nothing is repeated.
  await env.redis.set('users', 'no stream')
  await env.postgres.query("select outrider.publish('users', 'test.happened', $1, subject => $2)", [
    JSON.stringify(CARD),
    PERSON,
  ])
  await until(async () => (await env.postgres.query(rejected)).rowCount === 2)
  await relay.stop()
  expect(relay.logs.length).toBeGreaterThan(3)
  const text = relay.tail(Number.MAX_SAFE_INTEGER)
  expect(text).not.toContain(CARD)
  expect(text).not.toContain(PERSON)
})

consumerTest('a worker logs nothing of what an event holds, whatever becomes of it', async ({ env }) => {
  const input = { subject: PERSON, more: { who: PERSON } }
  await env.append(
    'things',
    [
      { n: 1, card: CARD },
      { n: 2, card: CARD },
      { n: 3, card: CARD },
    ],
    input,
  )
  await env.append('things', [{ n: CARD }], input)
  await env.append('things', [{ n: 1, card: CARD }], { ...input, type: 'nobody.knows' })
  const consumer = env.consumer().on(Happened, async ({ data }, { attempt }) => {
    if (data.n === 2 && attempt === 1) throw new Error('not yet')
    if (data.n === 3) throw new DeadLetter('never')
  })
  await consumer.start()
  await until(async () => (await env.dead('things')).length === 3)
  await until(async () => (await env.pending('things')) === 0)
  await consumer.stop()
  const text = JSON.stringify(env.logs)
  expect(text).toContain('dead-lettered')
  expect(text).not.toContain(CARD)
  expect(text).not.toContain(PERSON)
})
