import { expect } from 'vitest'
import { startRedis, until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'

test('an event that was committed appears in its stream, as a CloudEvent with its payload byte for byte', async ({
  createEnv,
}) => {
  const env = await createEnv({ redis: await startRedis() })
  const relay = await env.streamingRelay()
  const data = { text: 'Blåbærgrød 🫐', nested: [1, { a: null }] }
  const id = await env.insert('orders', data, 'order-42')
  await until(async () => (await env.ids('orders')).length === 1)
  const [[, fields]] = (await env.redis.xrange('orders', '-', '+')) as [[string, string[]]]
  const event = Object.fromEntries(fields.flatMap((field, i) => (i % 2 === 0 ? [[field, fields[i + 1]]] : [])))
  expect(event).toEqual({
    specversion: '1.0',
    id,
    source: `/${env.database.name}`,
    type: 'test.happened',
    subject: 'order-42',
    time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/),
    schemaversion: '1',
    sequence: expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{16}-[0-9a-f]{8}$/),
    datacontenttype: 'application/json',
    data: JSON.stringify(data),
  })
  expect(await relay.stop()).toBe(0)
})
