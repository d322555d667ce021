import type { Redis as Client, Command } from 'ioredis'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { headKey } from '../../src/event/names.js'
import { type Position, positionOf, positionPrefix, ZERO_POSITION } from '../../src/event/position.js'
import { connectRedis, type RedisClient } from '../../src/redis/client/connect.js'
import { removeHead } from '../../src/redis/streams/append.js'
import type { LossError } from '../../src/relay/sink/loss.js'
import { Publisher } from '../../src/relay/sink/publisher.js'
import type { PublisherOptions } from '../../src/relay/sink/publisher-options.js'
import { type FreshRedis, freshRedis, until } from '../../testkit/services/index.js'
import { at, call, events, idsIn, LINEAGE } from '../support/events.js'

const KEY = 'orders'
const BYTES = 100
const READMIT_AFTER_MS = 300

let redis: FreshRedis
/** What the publisher publishes to, seen by somebody else. */
let admin: Client
let env: PublisherEnv

beforeEach(async () => {
  redis = await freshRedis()
  admin = redis.client()
  env = new PublisherEnv()
})

afterEach(async () => {
  env.publisher.close()
  admin.disconnect()
  await redis.remove()
})

/** A publisher of session `new` between a real Redis and functions that note what they are called with. */
class PublisherEnv {
  readonly publisher: Publisher
  /** How many events of a transaction are done. */
  readonly done = new Map<number, number>()
  readonly rejected: [reason: string, id: string | undefined][] = []
  readonly lost: LossError[] = []
  readonly failed: unknown[] = []
  epochs = 0
  readonly tookOver: string[] = []
  owns: PublisherOptions['owns'] = async (session) => session === 'old'
  othersAreSilent: PublisherOptions['othersAreSilent'] = async () => false
  mayBeUnrecorded = false
  saved: Position | undefined
  prepare: PublisherOptions['prepare'] = async () => {}

  /** With no heads to take over. */
  async start(): Promise<void> {
    await this.publisher.start()
    this.publisher.release()
  }

  constructor(options: Pick<PublisherOptions, 'idleAfterMs'> = {}) {
    this.publisher = new Publisher({
      ...options,
      readmitAfterMs: READMIT_AFTER_MS,
      lineage: LINEAGE,
      session: 'new',
      limits: { batchEvents: 3, batchBytes: 1_000_000 },
      connect: () => connectRedis({ url: redis.url, connectTimeout: 5_000 }, 'publisher'),
      prepare: (client) => this.prepare(client),
      owns: (session) => this.owns(session),
      numberOf: async () => undefined,
      chain: (_, saved) => saved,
      mayBeUnrecorded: () => this.mayBeUnrecorded,
      savedPosition: async () => this.saved,
      othersAreSilent: (client) => this.othersAreSilent(client),
      tookOver: async (key, head, session) => {
        this.tookOver.push(`${key} ${head.event} ${session}`)
      },
      done: (transaction, count) => this.done.set(transaction, (this.done.get(transaction) ?? 0) + count),
      reject: async (rejections) => {
        this.rejected.push(
          ...rejections.map(({ reason, eventId }): (typeof this.rejected)[number] => [reason, eventId]),
        )
      },
      failed: (error) => this.failed.push(error),
      lost: (loss) => this.lost.push(loss),
      drained: () => {},
      observe: {
        appended: () => {},
        known: () => {},
        blocked: (reason) => {
          if (reason === undefined) this.epochs += 1
        },
      },
    })
  }

  /** Event n is the only one of transaction n. */
  add(from: number, to: number, key = KEY): void {
    const queue = this.publisher.queue(key)
    for (const { position, id } of events(from, to)) {
      const batch = this.publisher.batch(queue, BYTES)
      batch.args.push(position, id, 'id<id')
      this.publisher.added(queue, batch, Number.parseInt(id.slice(1), 10), BYTES, 0)
    }
  }

  /** Row n cannot be published by today's limits. */
  reject(n: number, eventId: string): void {
    const rejection = { reason: 'too_large', message: '', stream: KEY, eventId, position: at(n), row: {}, omitted: {} }
    this.publisher.reject(this.publisher.queue(KEY), { rejection, transaction: n, bytes: BYTES })
  }

  /** Until nothing waits any more: then each of the events 1 to n is in the stream once and counted once. */
  async expectOnce(n: number): Promise<void> {
    await this.settled()
    expect(await idsIn(admin, KEY)).toEqual(events(1, n).map(({ id }) => id))
    expect([...this.done]).toEqual(events(1, n).map((_, i) => [i + 1, 1]))
  }

  /** As the session does before it saves the heads that moved; then everything is idle that is to be. */
  saveAndTick(): void {
    for (const queue of this.publisher.queues.values()) queue.takeMoved()
    this.publisher.tick(performance.now())
  }

  async settled(): Promise<void> {
    await until(() => this.publisher.events === 0 || this.lost.length + this.failed.length > 0)
    expect({ lost: this.lost.map(({ message }) => message), failed: this.failed }).toEqual({ lost: [], failed: [] })
    expect(this.publisher).toMatchObject({ events: 0, bytes: 0 })
  }
}

/** Breaks the connection of the running epoch, and waits for the next one. */
async function breakEpoch(how: (client: RedisClient) => unknown): Promise<void> {
  const client = env.publisher.client as RedisClient
  await how(client)
  await until(() => env.publisher.client !== undefined && env.publisher.client !== client)
}

const breaks: [string, (client: RedisClient) => unknown][] = [
  ['its own side closes', (client) => client.disconnect()],
  ['Redis kills', async (client) => admin.client('KILL', 'ID', (await (client as Client).client('ID')) as number)],
]

it.each([
  ['at once', async () => {}],
  ['after the replay', () => env.settled()],
  [
    'in the next epoch',
    async () => {
      await env.settled()
      await breakEpoch((client) => client.disconnect())
    },
  ],
])('a chain that begins at the head takes a replay from below it, and what is new %s', async (_, between) => {
  await env.start()
  const old = { key: KEY, session: 'new', previous: ZERO_POSITION, events: events(1, 9) }
  const { head } = await call(env.publisher.client as RedisClient, old)
  env.publisher.open(env.publisher.queue(KEY), head, head.position)
  env.add(1, 5)
  await new Promise((resolve) => setImmediate(resolve))
  await between()
  env.add(10, 12)
  await env.settled()
  expect(await idsIn(admin, KEY)).toEqual(events(1, 12).map(({ id }) => id))
  expect([...env.done]).toEqual([1, 2, 3, 4, 5, 10, 11, 12].map((n) => [n, 1]))
})

it('takes over a phantom: a head of an older timeline, from beyond where it was left', async () => {
  await env.start()
  const phantom = { position: at(9), id: 'phantom', fields: ['id', 'phantom'] }
  const old = { key: KEY, session: 'new', previous: ZERO_POSITION, events: [...events(1, 3), phantom] }
  const { head } = await call(env.publisher.client as RedisClient, old)
  const queue = env.publisher.queue(KEY)
  env.publisher.open(queue, head, head.position)
  env.add(1, 3)
  await env.settled()
  const batch = env.publisher.batch(queue, BYTES)
  const position = positionOf(positionPrefix(2, 4n), 0)
  batch.args.push(position, 'e4', 'id<id')
  env.publisher.added(queue, batch, 4, BYTES, 0)
  await env.settled()
  expect(await idsIn(admin, KEY)).toEqual(['e1', 'e2', 'e3', 'phantom', 'e4'])
  expect([...env.done]).toEqual([1, 2, 3, 4].map((n) => [n, 1]))
})

it.each(breaks)(
  'an opening that outlives the connection that %s leaves the queue of the next epoch alone',
  async (_, cut) => {
    await env.start()
    const old = { key: KEY, session: 'old', previous: ZERO_POSITION, events: events(1, 4) }
    await call(env.publisher.client as RedisClient, old)
    const gates: (() => void)[] = []
    env.owns = (session) => new Promise((resolve) => gates.push(() => resolve(session === 'old')))
    env.add(1, 7)
    await until(() => gates.length === 1, { message: 'the first opening to ask whose session it is' })
    await breakEpoch(cut)
    await until(() => gates.length === 2, { message: 'the second opening to ask' })
    gates[1]?.()
    await until(() => env.publisher.queue(KEY).state === 'open')
    env.add(8, 40)
    gates[0]?.()
    for (let n = 41; n <= 60; n++) {
      env.add(n, n)
      await new Promise((resolve) => setImmediate(resolve))
    }
    await env.expectOnce(60)
    env.add(61, 70)
    await env.expectOnce(70)
    expect(env.epochs).toBe(2)
  },
)

it.each([
  ['before the stream is opened', false],
  ['in an open stream', true],
])('a row that is rejected %s at the position of another event than its own: diverged', async (_, open) => {
  await env.start()
  const old = { key: KEY, session: 'old', previous: ZERO_POSITION, events: events(1, 3) }
  await call(env.publisher.client as RedisClient, old)
  const queue = env.publisher.queue(KEY)
  if (open) {
    env.add(1, 1)
    await env.settled()
  }
  env.reject(2, 'e2')
  env.reject(3, 'of-a-copy')
  await until(() => env.lost.length > 0)
  expect(env.lost).toMatchObject([{ status: 'DIVERGED', key: KEY }])
  expect(env.rejected).toEqual([])
  expect([...env.done.keys()]).toEqual(open ? [1, 2] : [2])
  expect(queue.head.event).toBe('e3')
})

it('a stream whose ids are exhausted in the middle of a batch: what is in it is done, only the rest is rejected', async () => {
  const last = '18446744073709551615'
  await admin.xadd(KEY, `${last}-18446744073709551613`, 'id', 'foreign')
  await env.start()
  env.add(1, 5)
  await env.settled()
  expect(await idsIn(admin, KEY)).toEqual(['foreign', 'e1', 'e2'])
  expect([...env.done]).toEqual([
    [1, 1],
    [2, 1],
  ])
  expect(env.rejected).toEqual([
    ['stream_exhausted', 'e3'],
    ['stream_exhausted', 'e4'],
    ['stream_exhausted', 'e5'],
  ])
})

it('a stream that was exhausted in the middle of a batch continues its chain from what is in it', async () => {
  const last = '18446744073709551615'
  await admin.xadd(KEY, `${last}-18446744073709551613`, 'id', 'foreign')
  await env.start()
  env.add(1, 5)
  await env.settled()
  await until(() => {
    env.publisher.tick(performance.now())
    return env.publisher.queue(KEY).state !== 'refused'
  })
  env.add(6, 6)
  await env.settled()
  expect(env.rejected.at(-1)).toEqual(['stream_exhausted', 'e6'])
})

it('a stream refused as exhausted that has ids again continues its chain where it was', async () => {
  await env.start()
  env.add(1, 2)
  await env.settled()
  const [, [highest] = []] = await admin.xrange(KEY, '-', '+')
  const last = await admin.xadd(KEY, '18446744073709551615-18446744073709551615', 'id', 'foreign')
  env.add(3, 3)
  await env.settled()
  expect(env.rejected).toEqual([['stream_exhausted', 'e3']])

  await admin.xdel(KEY, last as string)
  await admin.call('XSETID', KEY, highest as string)
  await until(() => {
    env.publisher.tick(performance.now())
    return env.publisher.queue(KEY).state !== 'refused'
  })
  env.add(4, 5)
  await env.settled()
  expect(await idsIn(admin, KEY)).toEqual(['e1', 'e2', 'e4', 'e5'])
})

it('an exhausted stream is not tried again at every probe: each refusal ends the epoch of all streams', async () => {
  const last = '18446744073709551615'
  await admin.xadd(KEY, `${last}-${last}`, 'id', 'foreign')
  await env.start()
  env.add(1, 1)
  await env.settled()
  const { refusedAt } = env.publisher.queue(KEY)
  await until(() => {
    env.publisher.tick(performance.now())
    return env.publisher.queue(KEY).state !== 'refused'
  })
  expect(performance.now() - refusedAt).toBeGreaterThanOrEqual(READMIT_AFTER_MS)
})

it('a batch that overtakes an earlier one, as where a cluster moves the stream, ends the epoch and not the session', async () => {
  await env.start()
  env.add(1, 3)
  await env.settled()
  const client = env.publisher.client as Client
  const sendCommand = client.sendCommand.bind(client)
  const sent: Command[] = []
  client.sendCommand = (command: Command) => {
    // The first batch stays behind.
    if (sent.push(command) > 1) sendCommand(command)
    return command.promise
  }
  env.add(4, 9)
  await env.expectOnce(9)
  expect(sent).toHaveLength(2)
  expect(env.epochs).toBe(2)
})

it('preparing an epoch that fails again and again leaves no connection behind', async () => {
  let attempts = 0
  env.prepare = async () => {
    attempts += 1
    if (attempts < 6) throw new Error('OOM command not allowed')
  }
  await env.start()
  expect(attempts).toBe(6)
  const open = async () => String(await admin.client('LIST')).match(/name=publisher\b/g)?.length
  await until(async () => (await open()) === 1, { message: 'one connection, that of the epoch' })
})

describe('the head of a session that the database did not issue', () => {
  /** A head that session `lost` left at event 4. */
  async function unrecorded(): Promise<RedisClient> {
    await env.start()
    const client = env.publisher.client as RedisClient
    await call(client, { key: KEY, session: 'lost', previous: ZERO_POSITION, events: events(1, 4) })
    return client
  }

  it('is foreign on the timeline of the server, and is not waited for', async () => {
    env.othersAreSilent = () => Promise.reject(new Error('Expected not to be asked.'))
    await unrecorded()
    const before = await admin.hgetall(headKey(KEY, LINEAGE))
    env.add(1, 6)
    await until(() => env.lost.length > 0)
    expect(env.lost).toMatchObject([{ status: 'OTHER', reply: { session: 'lost' } }])
    expect(await admin.hgetall(headKey(KEY, LINEAGE))).toEqual(before)
  })

  it('is taken over on an older timeline, once all others were silent', async () => {
    env.mayBeUnrecorded = true
    env.othersAreSilent = async () => true
    await unrecorded()
    env.add(1, 6)
    await env.expectOnce(6)
    expect(env.tookOver).toEqual([`${KEY} e4 lost`])
  })

  it('is foreign on an older timeline where another relay is alive', async () => {
    env.mayBeUnrecorded = true
    await unrecorded()
    env.add(1, 6)
    await until(() => env.lost.length > 0)
    expect(env.lost).toMatchObject([{ status: 'OTHER', reply: { session: 'lost' } }])
  })

  it('is foreign on an older timeline where it moves meanwhile', async () => {
    env.mayBeUnrecorded = true
    const client = await unrecorded()
    env.othersAreSilent = async () => {
      await call(client, { key: KEY, session: 'lost', previous: at(4), events: events(5, 5) })
      return true
    }
    env.add(1, 6)
    await until(() => env.lost.length > 0)
    expect(await idsIn(admin, KEY)).toEqual(events(1, 5).map(({ id }) => id))
  })
})

it('a head whose stream is gone is removed only if it has not changed meanwhile', async () => {
  await env.start()
  const client = env.publisher.client as RedisClient
  const found = await call(client, { key: KEY, session: 'old', previous: ZERO_POSITION, events: events(1, 4) })
  await admin.del(KEY)
  await removeHead(client, KEY, LINEAGE, { ...found, session: 'another' })
  expect(await admin.hget(headKey(KEY, LINEAGE), 'session')).toBe('old')
  // One that arrives late, when this session has begun the stream again.
  await removeHead(client, KEY, LINEAGE, { ...found, head: { ...found.head, entry: '1-1' } })
  expect(await admin.hget(headKey(KEY, LINEAGE), 'session')).toBe('old')
  env.add(1, 6)
  await env.expectOnce(6)
})

it('a head whose stream is gone is lost, and nothing newer is published, where a session that was frozen has saved it meanwhile', async () => {
  await env.start()
  const found = await call(env.publisher.client as RedisClient, {
    ...{ key: KEY, session: 'old', previous: ZERO_POSITION, events: events(1, 4) },
  })
  await admin.del(KEY)
  env.saved = found.head.position
  env.add(5, 6)
  await until(() => env.lost.length > 0)
  expect(env.lost).toMatchObject([{ status: 'BEHIND', key: KEY, expected: at(4) }])
  expect(await admin.exists(KEY)).toBe(0)
})

describe('an idle stream', () => {
  const STREAMS = 300
  const keys = Array.from({ length: STREAMS }, (_, n) => `stream-${n}`)
  const KEY = keys[250] as string

  /** Each stream has an event, and nothing uses it any more. */
  beforeEach(async () => {
    env = new PublisherEnv({ idleAfterMs: 0 })
    await env.start()
    keys.forEach((key, n) => {
      env.add(n + 1, n + 1, key)
    })
    await env.settled()
    env.saveAndTick()
    expect(env.publisher.queues.size).toBe(0)
  })

  const lose = (key = KEY) => admin.multi().del(key).del(headKey(key, LINEAGE)).exec()

  async function expectLoss(key = KEY): Promise<void> {
    await until(() => env.lost.length > 0)
    expect(env.lost).toMatchObject([{ status: 'BEHIND', key }])
    expect(await admin.exists(key)).toBe(0)
  }

  it('leaves memory, and its next event arrives, once', async () => {
    env.add(1_000, 1_001, KEY)
    await env.settled()
    expect(await idsIn(admin, KEY)).toEqual(['e251', 'e1000', 'e1001'])
    env.saveAndTick()
    expect(env.publisher.queues.size).toBe(0)
    env.add(1_002, 1_002, KEY)
    await env.settled()
    expect(await idsIn(admin, KEY)).toEqual(['e251', 'e1000', 'e1001', 'e1002'])
  })

  it('that Redis lost is found by a probe, as all are in turn', async () => {
    await lose()
    for (let tick = 0; tick * 200 < STREAMS; tick++) env.publisher.tick(performance.now())
    await expectLoss()
  })

  it('that Redis lost is found by a probe, also where more streams come into use meanwhile than a tick probes', async () => {
    const first = keys[0] as string
    await lose(first)
    for (let tick = 0; tick < 4 && env.lost.length === 0; tick++) {
      for (let n = 0; n < 250; n++) env.add(1_000 + n, 1_000 + n, `stream-${tick}-${n}`)
      await until(() => env.publisher.events === 0 || env.lost.length > 0)
      env.saveAndTick()
    }
    await expectLoss(first)
  })

  it('that Redis lost when its probe was refused is found when the next epoch begins', async () => {
    await lose()
    await admin.script('FLUSH')
    env.publisher.tick(performance.now())
    await expectLoss()
  })

  it('that Redis lost is found by its next event, which is not published', async () => {
    await lose()
    env.add(1_000, 1_000, KEY)
    await expectLoss()
  })

  it('that Redis lost is found when the next epoch begins', async () => {
    await lose()
    env.publisher.client?.disconnect()
    await expectLoss()
  })

  it('that another session has taken over is left to it', async () => {
    const client = env.publisher.client as RedisClient
    const next = { key: KEY, session: 'newer', expected: 'new', previous: at(251), events: [] }
    await call(client, next)
    env.owns = async () => true
    env.add(1_000, 1_000, KEY)
    await until(() => env.lost.length > 0)
    expect(env.lost).toMatchObject([{ status: 'OTHER', key: KEY, reply: { session: 'newer' } }])
    expect(await idsIn(admin, KEY)).toEqual(['e251'])
  })

  it('whose key holds another type now is lost, too', async () => {
    await admin.del(KEY)
    await admin.set(KEY, 'text')
    env.add(1_000, 1_000, KEY)
    await until(() => env.lost.length > 0)
    expect(env.lost).toMatchObject([{ status: 'BEHIND', key: KEY }])
    expect(env.rejected).toEqual([])
  })
})

describe('a stream whose head is first looked at after its own row came again and went elsewhere', () => {
  beforeEach(async () => {
    await env.start()
    const row = { position: at(2), id: 'e2', fields: ['id', 'e2'] }
    const head = { key: KEY, session: 'old', previous: ZERO_POSITION, events: [row] }
    expect(await call(env.publisher.client as RedisClient, head)).toMatchObject({ status: 'OK' })
  })

  it.each([0, 2_000])('continues from the head, with %i rows in between', async (between) => {
    for (let n = 2; n <= 2 + between; n++) env.publisher.meet({ position: at(n), eventId: `e${n}` })
    const next = between + 3
    env.publisher.meet({ position: at(next), eventId: `e${next}` })
    env.add(next, next)
    await env.settled()
    expect(await idsIn(admin, KEY)).toEqual(['e2', `e${next}`])
  })

  it.each([
    ['the row was another event', (n: number) => `other-${n}`],
    ['no such row came', (n: number) => `e${n}`, 3],
  ] as [string, (n: number) => string, number?][])('is that of a copy where %s', async (_, id, from = 2) => {
    for (let n = from; n <= 4; n++) env.publisher.meet({ position: at(n), eventId: id(n) })
    env.add(5, 5)
    await until(() => env.lost.length > 0)
    expect(env.lost).toMatchObject([{ status: 'DIVERGED', key: KEY }])
  })
})

it('ids of rows that wait for no stream count as bytes until the heads are known', async () => {
  await env.publisher.start()
  for (let n = 1; n <= 10; n++) env.publisher.meet({ position: at(n), eventId: `e${n}` })
  expect(env.publisher.bytes).toBeGreaterThan(0)
  env.publisher.release()
  expect(env.publisher.bytes).toBe(0)
})

it('what a batch takes beside its events counts as bytes until it is appended, once a batch', async () => {
  env.add(1, 1)
  const one = env.publisher.bytes
  expect(one).toBeGreaterThan(1_000)
  env.add(2, 3)
  expect(env.publisher.bytes).toBe(one + 2 * BYTES)
  env.add(4, 4, 'users')
  expect(env.publisher.bytes).toBe(2 * one + 2 * BYTES)
  await env.start()
  await env.settled()
  expect(env.publisher.bytes).toBe(0)
})

it('of thousands of new streams 500 are opened at a time, and all get their events, also where the connection is lost meanwhile', async () => {
  const streams = 2_000
  for (let n = 1; n <= streams; n++) env.add(n, n, `customer-${n}`)
  const opening = () => [...env.publisher.queues.values()].filter(({ state }) => state === 'opening').length
  await env.start()
  expect(opening()).toBe(500)
  await until(() => {
    expect(opening()).toBeLessThanOrEqual(500)
    return env.publisher.events < streams
  })
  await breakEpoch((client) => client.disconnect())
  expect(opening()).toBeLessThanOrEqual(500)
  await env.settled()
  expect(env.done.size).toBe(streams)
  expect(await admin.dbsize()).toBe(2 * streams)
})
