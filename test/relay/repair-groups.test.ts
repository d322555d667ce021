import pg from 'pg'
import { expect } from 'vitest'
import { z } from 'zod'
import { createConsumer } from '../../src/consumer/index.js'
import { deadKey, waitingKey } from '../../src/event/names.js'
import { defineEvent } from '../../src/index.js'
import { until } from '../../testkit/services/index.js'
import { saved } from './redis-loss-env.js'
import { relayTest as test } from './relay-env.js'
import { REPAIR, repaired } from './repair-env.js'

const STREAM = 'orders'
const GROUP = 'billing'

const kind = (type: string) => defineEvent({ stream: STREAM, type, version: 1, data: z.object({}) })

test('after FLUSHALL a dead letter that no one has read is there again, and so is an event that waits for its next attempt', async ({
  env,
}) => {
  await env.streamingRelay(REPAIR)
  const publish = async (type: string): Promise<string> =>
    (await env.postgres.query("select outrider.publish($1, $2, '{}') as id", [STREAM, type])).rows[0].id
  const ids = async (key: string) =>
    (await env.redis.xrange(key, '-', '+')).map(([, fields]) => fields[fields.indexOf('id') + 1])
  const kept = async () => [await ids(deadKey(STREAM, GROUP)), await ids(waitingKey(STREAM, GROUP))]
  const fail = () => {
    throw new Error('never')
  }
  const db = new pg.Pool({ connectionString: env.database.url, max: 5 })
  // Beyond ten minutes an entry waits outside of its stream.
  const consumer = createConsumer({ redis: env.server.url, db, group: GROUP, backoff: () => 3_600_000 })
    .on(kind('order.refused'), fail, { maxAttempts: 1 })
    .on(kind('order.placed'), fail)
  await consumer.start()
  try {
    const expected = [[await publish('order.refused')], [await publish('order.placed')]]
    await until(async () => JSON.stringify(await kept()) === JSON.stringify(expected), {
      message: 'a dead letter, and an event that waits',
    })
    await saved(env, 1, expected[1]![0])
    await env.redis.flushall()
    expect(await kept()).toEqual([[], []])
    await repaired(env)
    await until(async () => JSON.stringify(await kept()) === JSON.stringify(expected), { message: 'both, once more' })
  } finally {
    await consumer.stop({ timeout: 0 })
    await db.end()
  }
})
