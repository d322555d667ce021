import { expect } from 'vitest'
import { ownKey } from '../../src/consumer/inbox/inbox.js'
import { DeadLetter } from '../../src/consumer/index.js'
import { until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { leaveBehind, metricOf, pendingOf } from './watch.js'

const numbers = (count: number) => Array.from({ length: count }, (_, n) => ({ n }))

const hostile = () =>
  new Proxy(new Error('boom'), {
    get() {
      throw new Error('no')
    },
    getPrototypeOf() {
      throw new Error('no')
    },
  })

test('whatever a handler throws, its event is a dead letter after its attempts', async ({ env }) => {
  const thrown = [
    Object.create(null),
    hostile(),
    { code: '40001' },
    undefined,
    new Error('boom', { cause: hostile() }),
    new DeadLetter('no such customer', { cause: Object.create(null) }),
  ]
  let runs = 0
  const consumer = env.consumer({ maxAttempts: 2 }).on(Happened, (event) => {
    runs += 1
    throw thrown[event.data.n]
  })
  await consumer.start()
  await env.append('things', numbers(thrown.length))
  await until(async () => (await env.dead('things')).length === thrown.length)
  const exhausted = (n: number, deaderror: string) => ({
    data: `{"n":${n}}`,
    ...{ deadreason: 'attempts_exhausted', deadattempts: '2', deaderror },
  })
  const found = (what: string) => `Error: Expected an Error to be thrown, found ${what}.`
  const dead = (await env.dead('things')).sort((a, b) => String(a.data).localeCompare(String(b.data)))
  expect(dead).toMatchObject([
    exhausted(0, found('{}')),
    exhausted(1, found('a value of type object that cannot be read')),
    exhausted(2, found('{"code":"40001"}')),
    exhausted(3, found('undefined')),
    exhausted(4, 'Error: boom; caused by a value of type object that cannot be read'),
    { data: '{"n":5}', deadreason: 'no such customer', deaderror: '{}', deadattempts: '1' },
  ])
  expect(runs).toBe(2 * 5 + 1)
  expect(env.logs.filter(({ msg }) => msg.startsWith('a bug'))).toEqual([])
})

test('a key or a backoff that throws costs attempts, and the event is a dead letter', async ({ env }) => {
  const throwing = () => {
    throw new Error('boom')
  }
  const other = { ...Happened, type: 'thing.else' }
  const consumer = env
    .consumer({ maxAttempts: 2 })
    .on(Happened, effect, { key: throwing })
    .on(other, throwing, { backoff: throwing, maxAttempts: 2 })
  await consumer.start()
  await env.append('things', numbers(1))
  await env.append('things', numbers(1), { type: other.type })
  await until(async () => (await env.dead('things')).length === 2)
  expect(await env.dead('things')).toMatchObject([
    { deadreason: 'attempts_exhausted', deaderror: 'Error: boom', deadattempts: '2' },
    { deadreason: 'attempts_exhausted', deaderror: 'Error: boom', deadattempts: '2' },
  ])
  expect(env.logs.filter(({ msg }) => msg.startsWith('a bug'))).toEqual([])
})

test('what has killed its workers is dead-lettered without a call of key, which a payload may break', async ({
  env,
}) => {
  const [entry] = await leaveBehind(env.redis, 'things', [{ other: 1 }])
  await env.redis.call('XCLAIM', 'things', GROUP, 'ghost', '0', entry as string, 'RETRYCOUNT', '5', 'JUSTID')
  let calls = 0
  const consumer = env.consumer({ claimAfter: '200ms' }).on(Happened, effect, {
    key: ({ data }) => {
      calls += 1
      return data.n.toFixed(0)
    },
  })
  await consumer.start()
  await until(async () => (await env.dead('things')).length === 1)
  expect(await env.dead('things')).toMatchObject([{ deadreason: 'crashed' }])
  expect(calls).toBe(0)
  expect(env.logs.filter(({ msg }) => msg.startsWith('a bug'))).toEqual([])
})

test('an event whose handler has a key is not dead-lettered as crashed where its effect is committed', async ({
  env,
}) => {
  const entries = await leaveBehind(env.redis, 'things', [{ n: 1 }, { n: 2 }, { n: 3 }, { n: 4 }])
  // The last one has killed a worker that asked, too.
  for (const [place, entry] of entries.entries())
    await env.redis.call(
      'XCLAIM',
      'things',
      GROUP,
      'ghost',
      '0',
      entry,
      'RETRYCOUNT',
      place === 3 ? '6' : '5',
      'JUSTID',
    )
  const { source, id } = ownKey(Happened.type, '1')
  await env.pool.query('select outrider.accept($1, $2, $3)', [GROUP, source, id])
  const keys: number[] = []
  const deliveries: number[] = []
  const data = Happened.data['~standard'].validate
  const validate = async (value: unknown) => {
    const pending = await pendingOf(env.redis, 'things')
    deliveries.push(Math.max(...pending.map((each) => (each.consumer === 'ghost' ? 0 : each.deliveries))))
    return data(value)
  }
  const consumer = env
    .consumer({ claimAfter: '200ms' })
    .on({ ...Happened, data: { '~standard': { version: 1, vendor: 'test', validate } } }, effect as never, {
      key: ({ data }) => {
        const { n } = data as { n: number }
        keys.push(n)
        if (n === 3) throw new Error('no key')
        return String(n)
      },
    })
  await consumer.start()
  await until(async () => (await env.dead('things')).length === 3 && (await env.pending('things')) === 0)
  const dead = (await env.dead('things')).map(({ data, deadreason, deaderror }) => [data, deadreason, deaderror])
  const said = (n: number, times: number) => [
    `{"n":${n}}`,
    'crashed',
    `Its worker ended without an outcome ${times} times`,
  ]
  expect(dead.sort()).toEqual([said(2, 5), said(3, 5), said(4, 6)])
  expect(keys.sort()).toEqual([1, 2, 3])
  expect(Math.min(...deliveries)).toBe(6)
  expect(await metricOf(consumer, 'processed_total', { result: 'duplicate' })).toBe(1)
  expect(await env.effects()).toEqual([])
})

test('what is wrong with a payload is cut in its dead letter and in the log', async ({ env }) => {
  const consumer = env
    .consumer()
    .on({ ...Happened, data: { '~standard': { version: 1, vendor: 'test', validate: refuse } } }, () => {})
  await consumer.start()
  await env.append('things', numbers(1))
  await until(async () => (await env.dead('things')).length === 1)
  const [dead] = await env.dead('things')
  expect(dead).toMatchObject({ deadreason: 'invalid_data', deaderror: 'x'.repeat(4_096) })
  // The worker logs it once Redis has replied.
  const line = await until(() => env.logs.find(({ msg }) => msg === 'an event is dead-lettered'))
  expect(line.error).toBe('x'.repeat(4_096))
})

const refuse = () => ({ issues: [{ message: 'x'.repeat(1_000_000) }] })
