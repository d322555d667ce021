import type { Redis as Client } from 'ioredis'
import { expect } from 'vitest'
import { fenceKey } from '../../src/event/names.js'
import { ConsumerGroup } from '../../src/redis/streams/consumer-group.js'
import type { OrderedReply } from '../../src/redis/streams/group-replies.js'
import { type GroupEnv, groupTest as test } from './group-env.js'
import { GROUP } from './happened.js'

type Given = Exclude<OrderedReply, { fenced: number }>

async function take(redis: Client, group: ConsumerGroup, epoch: number, most: number, from = ''): Promise<Given> {
  const reply = await group.readOrdered(redis, String(epoch), most, from)
  if ('fenced' in reply) throw new Error(`Expected entries, found it fenced by epoch ${reply.fenced}`)
  return reply
}

const idsOf = ({ complete, taken, fresh }: Given) => ({
  complete,
  taken: taken.map(({ id }) => id),
  fresh: fresh.map(({ id }) => id),
})

/** What the Redis of this test holds of the stream and its group, to see that nothing changed. */
const whole = async ({ redis, key, pending }: GroupEnv) => [
  await pending(),
  await redis.get(fenceKey(key, GROUP)),
  ((await redis.xinfo('GROUPS', key)) as unknown[][])[0]?.slice(0, 8),
]

test('reads what is new, in order, up to what there is room for', async ({ env }) => {
  const { redis, one, append, pending } = env
  const ids = await append(5)
  expect(idsOf(await take(redis, one, 1, 3, '-'))).toEqual({ complete: true, taken: [], fresh: ids.slice(0, 3) })
  const rest = await take(redis, one, 1, 3)
  expect(rest.fresh).toEqual([
    { id: ids[3], fields: ['id', '3'] },
    { id: ids[4], fields: ['id', '4'] },
  ])
  expect(await pending()).toEqual(ids.map((id) => [id, 'one', 1]))
  expect(idsOf(await take(redis, one, 1, 3))).toEqual({ complete: true, taken: [], fresh: [] })
})

test('a holder whose epoch is not the last gets nothing, and changes nothing', async ({ env }) => {
  const { redis, one, two, append } = env
  await append(2)
  await take(redis, one, 4, 1, '-')
  await take(redis, two, 5, 1, '-')
  await append(1)
  const before = await whole(env)
  for (const from of ['-', '']) expect(await one.readOrdered(redis, '4', 10, from)).toEqual({ fenced: 5 })
  expect(await whole(env)).toEqual(before)
  // Numbers, not texts.
  await take(redis, one, 10, 1, '-')
  expect(await two.readOrdered(redis, '9', 10, '-')).toEqual({ fenced: 10 })
})

test('a holder that was fenced out may come back with a higher epoch', async ({ env }) => {
  const { redis, one, two, append } = env
  const ids = await append(3)
  await take(redis, one, 1, 1, '-')
  await take(redis, two, 2, 2, '-')
  expect(idsOf(await take(redis, one, 3, 10, '-'))).toEqual({ complete: true, taken: ids.slice(0, 2), fresh: [ids[2]] })
})

test('a new holder takes all that is pending, with whomever, in order and in pieces, before anything new', async ({
  env,
}) => {
  const { redis, key, two, append, pending } = env
  const ids = await append(290)
  // Pending in turns with one, two and three; more than the script looks at in one go.
  for (let n = 0; n < 240; n++) {
    await redis.xreadgroup('GROUP', GROUP, ['one', 'two', 'three'][n % 3] as string, 'COUNT', 1, 'STREAMS', key, '>')
  }
  expect(new Set((await pending()).map(([, consumer]) => consumer)).size).toBe(3)

  const seen: string[] = []
  let from = '-'
  for (let turn = 0; from !== ''; turn++) {
    const { complete, taken, fresh } = await take(redis, two, 2, 130, from)
    expect(fresh.length === 0 || complete, 'nothing new before all is taken').toBe(true)
    expect(taken.length + fresh.length).toBeLessThanOrEqual(130)
    expect(taken.every(({ fields, deliveryCount }) => fields?.[0] === 'id' && deliveryCount === 1)).toBe(true)
    seen.push(...taken.map(({ id }) => id), ...fresh.map(({ id }) => id))
    from = complete ? '' : `(${taken.at(-1)?.id}`
    expect(turn).toBeLessThan(10)
  }
  expect(seen).toEqual(ids.slice(0, seen.length))
  expect(seen.length).toBeGreaterThan(240)
  expect((await take(redis, two, 2, 100)).fresh.map(({ id }) => id)).toEqual(ids.slice(seen.length))
  // Each was delivered once, whoever had it: taking over is no delivery.
  expect(await pending()).toEqual(ids.map((id) => [id, 'two', 1]))
})

test('a piece that ends with the last pending entry is followed by what is new', async ({ env }) => {
  const { redis, one, two, append } = env
  const ids = await append(101)
  await take(redis, one, 1, 100, '-')
  const first = await take(redis, two, 2, 100, '-')
  const next = first.complete ? '' : `(${first.taken.at(-1)?.id}`
  expect(first.taken.map(({ id }) => id)).toEqual(ids.slice(0, 100))
  expect(idsOf(await take(redis, two, 2, 100, next))).toEqual({ complete: true, taken: [], fresh: [ids[100]] })
})

test('what another consumer was given meanwhile is taken before what is newer', async ({ env }) => {
  const { redis, key, two, append, pending } = env
  const ids = await append(6)
  expect(idsOf(await take(redis, two, 2, 2, '-'))).toEqual({ complete: true, taken: [], fresh: ids.slice(0, 2) })
  // Somebody who heeds no fence, such as a worker of the group that is not ordered.
  await redis.xreadgroup('GROUP', GROUP, 'stray', 'COUNT', 3, 'STREAMS', key, '>')
  expect(idsOf(await take(redis, two, 2, 2))).toEqual({ complete: false, taken: ids.slice(2, 4), fresh: [] })
  expect(idsOf(await take(redis, two, 2, 2))).toEqual({ complete: true, taken: [ids[4]], fresh: [ids[5]] })
  expect(idsOf(await take(redis, two, 2, 2))).toEqual({ complete: true, taken: [], fresh: [] })
  expect((await pending()).map(([, consumer]) => consumer)).toEqual(ids.map(() => 'two'))
})

test('what was trimmed while it was pending is acknowledged and told of, in its place', async ({ env }) => {
  const { redis, key, one, two, append, pending } = env
  const ids = await append(4)
  await take(redis, one, 1, 3, '-')
  await one.recordFailure(redis, ids[2] as string, '{"attempts":2}')
  await redis.xdel(key, ids[1] as string)
  const { taken, fresh } = await take(redis, two, 2, 10, '-')
  expect(taken).toEqual([
    { id: ids[0], fields: ['id', '0'], size: 3, deliveryCount: 1, attempts: '' },
    { id: ids[1], fields: undefined, size: 0, deliveryCount: 1, attempts: '' },
    { id: ids[2], fields: ['id', '2'], size: 3, deliveryCount: 1, attempts: '{"attempts":2}' },
  ])
  expect(fresh.map(({ id }) => id)).toEqual([ids[3]])
  expect((await pending()).map(([id]) => id)).toEqual([ids[0], ids[2], ids[3]])
})

test('the fence of one group is not that of another', async ({ env }) => {
  const { redis, key, one, append } = env
  await append(1)
  await take(redis, one, 7, 1, '-')
  const other = new ConsumerGroup(key, 'mail', 'one')
  await other.create(redis, '0')
  expect((await take(redis, other, 1, 1, '-')).fresh).toHaveLength(1)
})
