import pg from 'pg'
import { expect } from 'vitest'
import { createConsumer } from '../../src/consumer/index.js'
import { until } from '../../testkit/services/index.js'
import { Happened } from '../consumer/happened.js'
import { relayTest as test } from './relay-env.js'

/**
 * The whole path in a few seconds, for the servers that OUTRIDER_TEST_POSTGRES and OUTRIDER_TEST_REDIS choose: `.ci/run`
 * runs it on the newest and the oldest.
 */

const EVENTS = 400

test(`${EVENTS} events have one effect each, though the relay is killed half-way`, async ({ createEnv }) => {
  const env = await createEnv()
  await env.postgres.query('create table effect (event text, n int)')
  const publish = (from: number, to: number) =>
    env.postgres.query(
      `select outrider.publish($1, $2, json_build_object('n', n)) from generate_series($3::int, $4::int) as n`,
      [Happened.stream, Happened.type, from, to],
    )
  const effects = async (): Promise<number[]> =>
    (await env.postgres.query('select n from effect order by n')).rows.map(({ n }) => n)

  const db = new pg.Pool({ connectionString: env.database.url, max: 5 })
  const consumer = createConsumer({
    redis: env.server.url,
    db,
    group: 'smoke',
    startFrom: 'beginning',
  }).on(Happened, async (event, { tx }) => {
    await tx.query('insert into effect values ($1, $2)', [event.id, event.data.n])
  })
  try {
    await publish(1, EVENTS / 2)
    const first = await env.relay()
    await consumer.start()
    await until(async () => (await effects()).length > 0, { message: 'a first effect' })
    await publish(EVENTS / 2 + 1, EVENTS)
    await first.kill()
    await env.relay()
    await until(async () => new Set(await effects()).size === EVENTS, { message: 'all effects' })
    await until(async () => (await env.redis.xpending(Happened.stream, 'smoke'))[0] === 0)
  } finally {
    await consumer.stop({ timeout: 0 })
    await db.end()
  }
  expect(await effects()).toEqual(Array.from({ length: EVENTS }, (_, index) => index + 1))
  expect(await env.ids(Happened.stream)).toHaveLength(EVENTS)
  expect((await env.postgres.query('select * from outrider.incident')).rows).toEqual([])
})
