import type { Redis as Client } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { headKey } from '../../src/event/names.js'
import { ZERO_POSITION } from '../../src/event/position.js'
import { closeRedis } from '../../src/redis/client/connect.js'
import { append, batchArguments, loadAppend } from '../../src/redis/streams/append.js'
import { type FreshRedis, freshRedis } from '../../testkit/services/index.js'
import { at, call, dump, event, events, idsIn, LINEAGE } from '../support/events.js'

let redis: FreshRedis
let client: Client
let streams = 0
/** A stream of its own for every test. */
let key: string

beforeAll(async () => {
  redis = await freshRedis()
  client = redis.client()
  await loadAppend(client)
})

afterAll(async () => {
  client?.disconnect()
  await redis?.remove()
})

const fresh = () => {
  key = `orders-${streams++}`
  return key
}

/** A stream that session "one" has written events 1 to `last` to. */
async function written(last: number) {
  fresh()
  const reply = await one(ZERO_POSITION, events(1, last))
  expect(reply.status).toBe('OK')
  return reply
}

const one = (previous: string, batch = events(1, 0)) => call(client, { key, session: 'one', previous, events: batch })
const head = () => client.hgetall(headKey(key, LINEAGE))

/** Makes the call, which must leave stream and head as they are. */
async function writingNothing<T>(make: () => Promise<T>): Promise<T> {
  const before = await dump(client, key)
  const result = await make()
  expect(await dump(client, key)).toEqual(before)
  return result
}

describe('a look, which bears no session', () => {
  it('tells whose the head is and whether all is there, and writes nothing', async () => {
    await written(3)
    const look = (previous: string) => writingNothing(() => call(client, { key, session: '', previous }))
    expect(await look(at(3))).toMatchObject({ status: 'OK', session: 'one', head: { position: at(3), event: 'e3' } })
    expect(await look(at(4))).toMatchObject({ status: 'BEHIND', session: 'one' })
    await client.del(key)
    expect(await look(at(3))).toMatchObject({ status: 'BEHIND', session: 'one', error: 'the stream is gone' })
  })

  it('finds no head where there is none', async () => {
    fresh()
    expect(await call(client, { key, session: '', previous: ZERO_POSITION })).toMatchObject({
      status: 'OK',
      session: '',
    })
    expect(await call(client, { key, session: '', previous: at(1) })).toMatchObject({ status: 'BEHIND', session: '' })
  })

  it('with events is malformed', async () => {
    await written(1)
    const events = [event(2)]
    const reply = await writingNothing(() => call(client, { key, session: '', previous: at(1), events }))
    expect(reply).toMatchObject({ status: 'INVALID', error: 'events without a session' })
  })
})

describe('OK', () => {
  it('appends a batch to a stream that is not there yet, in order, and leaves the head at its last event', async () => {
    fresh()
    const reply = await one(ZERO_POSITION, events(1, 3))
    const [, , last] = await client.xrange(key, '-', '+')
    expect(reply).toEqual({
      status: 'OK',
      head: { position: at(3), event: 'e3', entry: last?.[0] },
      session: 'one',
      appended: 3,
      skipped: 0,
      error: '',
    })
    expect(await idsIn(client, key)).toEqual(['e1', 'e2', 'e3'])
    expect(await head()).toEqual({ position: at(3), event: 'e3', entry: last?.[0], session: 'one', added: '3' })
  })

  it('writes every field as it was given', async () => {
    fresh()
    const fields = ['id', 'e1', 'data', '{"a":"ü\u0000\r\n"}', 'subject', '']
    await one(ZERO_POSITION, [event(1, 'e1', fields)])
    expect((await client.xrange(key, '-', '+'))[0]?.[1]).toEqual(fields)
  })

  it('appends batches that were sent together, each chained to the one before it', async () => {
    fresh()
    const replies = await Promise.all([
      one(ZERO_POSITION, events(1, 2)),
      one(at(2), events(3, 3)),
      one(at(3), events(4, 6)),
    ])
    expect(replies.map(({ status, appended }) => [status, appended])).toEqual([
      ['OK', 2],
      ['OK', 1],
      ['OK', 3],
    ])
    expect(await idsIn(client, key)).toEqual(['e1', 'e2', 'e3', 'e4', 'e5', 'e6'])
  })

  it('skips what is in the stream already, whatever the batch it came in', async () => {
    await written(3)
    expect(await one(ZERO_POSITION, events(1, 3))).toMatchObject({ status: 'OK', appended: 0, skipped: 3 })
    expect(await one(at(1), events(2, 5))).toMatchObject({ status: 'OK', appended: 2, skipped: 2 })
    expect(await one(ZERO_POSITION, events(1, 2))).toMatchObject({ status: 'OK', appended: 0, skipped: 2 })
    expect(await idsIn(client, key)).toEqual(['e1', 'e2', 'e3', 'e4', 'e5'])
    expect(await head()).toMatchObject({ position: at(5), event: 'e5' })
  })

  it('lets a chain continue from the head though positions between were never used', async () => {
    await written(1)
    expect(await one(at(1), [event(50), event(70)])).toMatchObject({ status: 'OK', appended: 2 })
  })

  it('keeps lineages apart in one stream', async () => {
    await written(5)
    const other = { key, lineage: 'another', session: 'two', previous: ZERO_POSITION }
    expect(await call(client, { ...other, events: [event(1, 'x1')] })).toMatchObject({ status: 'OK', appended: 1 })
    expect(await idsIn(client, key)).toEqual(['e1', 'e2', 'e3', 'e4', 'e5', 'x1'])
    expect(await one(at(5), events(6, 6))).toMatchObject({ status: 'OK', appended: 1 })
  })

  it('orders by timeline before LSN, by LSN before index, over the whole width of each', async () => {
    fresh()
    const positions = [
      '00000001-00000000fffffff0-00000009',
      '00000001-00000000fffffff0-0000000a',
      '00000001-00000000ffffffff-00000000',
      '00000001-0000000100000000-00000000',
      '00000001-ffffffff00000000-ffffffff',
      '00000001-ffffffff00000001-00000000',
      '00000002-0000000000000001-00000000',
      'ffffffff-ffffffffffffffff-ffffffff',
    ]
    for (const [i, position] of positions.entries()) {
      const batch = [{ position, id: `e${i}`, fields: ['id', `e${i}`] }]
      const previous = positions[i - 1] ?? ZERO_POSITION
      expect(await one(previous, batch)).toMatchObject({ status: 'OK', appended: 1 })
      expect(await one(previous, batch)).toMatchObject({ status: 'OK', skipped: 1 })
    }
    expect(await client.xlen(key)).toBe(positions.length)
  })
})

describe('OTHER', () => {
  it('refuses a session that the head does not belong to, and says whose it is', async () => {
    const { head } = await written(2)
    const zombie = () => call(client, { key, session: 'zombie', previous: at(2), events: events(3, 3) })
    expect(await writingNothing(zombie)).toMatchObject({ status: 'OTHER', head, session: 'one', appended: 0 })
  })

  it('refuses a take-over from a session that is not the head’s any more', async () => {
    await written(2)
    const late = () => call(client, { key, session: 'three', expected: 'two', previous: at(2), events: events(3, 3) })
    expect(await writingNothing(late)).toMatchObject({ status: 'OTHER', session: 'one' })
  })

  it('lets a new session take over from the expected one, whose late batches then find it gone', async () => {
    const { head } = await written(2)
    const claim = { key, session: 'two', expected: 'one', previous: at(2) }
    expect(await call(client, claim)).toMatchObject({ status: 'OK', head, session: 'two' })
    expect(await writingNothing(() => one(at(2), events(3, 3)))).toMatchObject({ status: 'OTHER', session: 'two' })
    expect(await call(client, { ...claim, events: events(2, 3) })).toMatchObject({
      status: 'OK',
      appended: 1,
      skipped: 1,
    })
    expect(await idsIn(client, key)).toEqual(['e1', 'e2', 'e3'])
  })
})

describe('BEHIND', () => {
  it('tells of a head that is gone', async () => {
    await written(2)
    await client.del(headKey(key, LINEAGE))
    expect(await writingNothing(() => one(at(2), events(3, 3)))).toMatchObject({
      status: 'BEHIND',
      head: { position: ZERO_POSITION },
    })
  })

  it('tells of a head that is older than what the chain builds on', async () => {
    await written(2)
    expect(await writingNothing(() => one(at(3), events(4, 4)))).toMatchObject({
      status: 'BEHIND',
      head: { position: at(2) },
    })
  })

  it('tells of a stream that is gone', async () => {
    await written(2)
    await client.del(key)
    expect(await writingNothing(() => one(at(2), events(3, 3)))).toMatchObject({
      status: 'BEHIND',
      error: 'the stream is gone',
    })
  })

  it('tells of a stream that a consumer has created again', async () => {
    await written(2)
    await client.del(key)
    await client.xgroup('CREATE', key, 'billing', '$', 'MKSTREAM')
    expect(await writingNothing(() => one(at(2), events(3, 3)))).toMatchObject({ status: 'BEHIND' })
  })

  it('tells of a stream that went back, by one entry of the same millisecond, too', async () => {
    fresh()
    await client.xadd(key, '9000000000000-0', 'id', 'old')
    await one(ZERO_POSITION, events(1, 1))
    const [entry] = (await client.xrange(key, '+', '-')).concat(await client.xrevrange(key, '+', '-', 'COUNT', 1))[0]!
    expect(entry).toBe('9000000000000-1')
    await client.del(key)
    await client.xadd(key, '9000000000000-0', 'id', 'old')
    expect(await writingNothing(() => one(at(1), events(2, 2)))).toMatchObject({ status: 'BEHIND' })
    expect(await writingNothing(() => one(at(1)))).toMatchObject({ status: 'BEHIND' })
  })

  it('does not take what was trimmed or deleted for lost', async () => {
    await written(3)
    await client.xtrim(key, 'MAXLEN', 0)
    expect(await one(at(3), events(4, 4))).toMatchObject({ status: 'OK', appended: 1 })
    await client.xdel(key, (await head()).entry as string)
    expect(await one(at(4), events(5, 5))).toMatchObject({ status: 'OK', appended: 1 })
  })

  it('is what everything behind a failed batch finds, so that nothing overtakes', async () => {
    await written(1)
    const replies = await Promise.all([
      call(client, { key, session: 'zombie', previous: at(1), events: events(2, 2) }),
      one(at(2), events(3, 3)),
      one(at(3), events(4, 4)),
    ])
    expect(replies.map(({ status }) => status)).toEqual(['OTHER', 'BEHIND', 'BEHIND'])
    expect(await idsIn(client, key)).toEqual(['e1'])
  })
})

describe('DIVERGED', () => {
  it('is a replay that holds another event at the position of the head', async () => {
    await written(3)
    const replay = [...events(1, 2), event(3, 'another'), event(4)]
    expect(await writingNothing(() => one(ZERO_POSITION, replay))).toMatchObject({ status: 'DIVERGED' })
  })

  it('is a replay that passes by the position of the head', async () => {
    await written(3)
    const replay = [...events(1, 2), ...events(4, 5)]
    expect(await writingNothing(() => one(at(1), replay))).toMatchObject({ status: 'DIVERGED' })
  })

  it('is not a replay that ends before it', async () => {
    await written(3)
    expect(await writingNothing(() => one(ZERO_POSITION, events(1, 2)))).toMatchObject({ status: 'OK', skipped: 2 })
  })
})

describe('a stream that somebody else wrote to', () => {
  it('is BEHIND when it was deleted before, though it has later entries', async () => {
    await written(3)
    await client.del(key)
    // Ids of a later moment: the test may be through within the millisecond of its first entries.
    for (let n = 0; n < 5; n++) await client.xadd(key, `${Date.now() + 60_000 + n}-0`, 'id', 'foreign')
    expect(await writingNothing(() => one(at(3)))).toMatchObject({ status: 'BEHIND' })
    expect(await writingNothing(() => one(at(3), events(4, 5)))).toMatchObject({ status: 'BEHIND' })
  })

  it('is as it should be when all its own entries were trimmed meanwhile', async () => {
    await written(3)
    await client.xadd(key, '*', 'id', 'foreign')
    await client.xtrim(key, 'MAXLEN', 1)
    expect(await one(at(3), events(4, 5))).toMatchObject({ status: 'OK', appended: 2 })
    await client.xtrim(key, 'MAXLEN', 0)
    expect(await one(at(5), events(6, 6))).toMatchObject({ status: 'OK', appended: 1 })
  })
})

describe('the shape ^', () => {
  const shaped = (shapes: string[]): string[] =>
    shapes.flatMap((shape, i) => [at(i + 1), `e${i + 1}`, shape, `first ${i}`, ...(i < 3 ? [] : [`second ${i}`])])
  const fields = async () => (await client.xrange(key, '-', '+')).map(([, each]) => each)
  const stated = ['id<id\na', 'id<id\na', 'id<id\na', 'id<id\na\nb', 'id<id\na\nb']
  const elided = ['id<id\na', '^', '^', 'id<id\na\nb', '^']
  const send = (shapes: string[]) =>
    append(client, batchArguments(key, LINEAGE, 'one').concat(shaped(shapes)), ZERO_POSITION)

  it.each([0, 1, 2, 3, 4, 5])(
    'is that of the event before it, also when %i events are there already',
    async (present) => {
      fresh()
      await send(stated)
      const expected = await fields()
      fresh()
      await send(stated.slice(0, present))
      expect(await send(elided)).toMatchObject({ status: 'OK', appended: 5 - present, skipped: present })
      expect(await fields()).toEqual(expected)
      expect(expected[4]).toEqual(['id', 'e5', 'a', 'first 4', 'b', 'second 4'])
    },
  )

  it('is INVALID where there is none before it, and with too few values for it', async () => {
    await written(1)
    for (const wrong of [
      [at(2), 'e2', '^', 'x'],
      [at(2), 'e2', 'id<id\na', 'x', at(3), 'e3', '^'],
    ]) {
      const args = batchArguments(key, LINEAGE, 'one').concat(wrong)
      const reply = await writingNothing(() => append(client, args, at(1)))
      expect(reply).toMatchObject({ status: 'INVALID', error: expect.stringContaining('malformed event') })
    }
  })
})

describe('INVALID', () => {
  const good = [at(2), 'e2', 'id<id\ntype', 'happened']
  const bad = {
    'a value too few': [at(3), 'e3', 'type\ntime', 'happened'],
    'a value too many': [at(3), 'e3', 'type', 'happened', 'more'],
    'an empty shape': [at(3), 'e3', ''],
    'a field without a name': [at(3), 'e3', '=1.0'],
    'a name that is none': [at(3), 'e3', 'no-name', 'x'],
    'a pointer to something else': [at(3), 'e3', 'id<session'],
    'an event cut off behind its position': [at(3)],
    'an event cut off behind its id': [at(3), 'e3'],
    'a position that is too short': [at(3).slice(1), 'e3', 'id<id'],
    'a position that is too long': [`${at(3)}0`, 'e3', 'id<id'],
    'more fields than unpack can take': [
      at(3),
      'e3',
      Array(4500).fill('x').join('\n'),
      ...Array<string>(4500).fill('x'),
    ],
  }
  it.each(Object.entries(bad))('refuses the whole batch for %s', async (_, arguments_) => {
    await written(1)
    const args = batchArguments(key, LINEAGE, 'one').concat(good, arguments_)
    const reply = await writingNothing(() => append(client, args, at(1)))
    expect(reply).toMatchObject({ status: 'INVALID', appended: 0, error: expect.stringContaining('malformed event') })
  })
})

describe('sizes', () => {
  const wide = (n: number, count: number) => event(n, `e${n}`, ['id', `e${n}`, ...Array<string>(count - 2).fill('x')])

  it('takes an event with 998 arguments, and with 1000', async () => {
    fresh()
    const batch = [wide(1, 998), wide(2, 1000), event(3)]
    expect(await one(ZERO_POSITION, batch)).toMatchObject({ status: 'OK', appended: 3 })
    expect((await client.xrange(key, '-', '+')).map(([, fields]) => fields.length)).toEqual([998, 1000, 2])
  })

  it('refuses an event with 5000 arguments, and everything around it', async () => {
    fresh()
    const batch = [event(1), wide(2, 5000), event(3)]
    expect(await writingNothing(() => one(ZERO_POSITION, batch))).toMatchObject({ status: 'INVALID' })
  })

  it('takes a batch of 256 events with 5,000 arguments and more', async () => {
    fresh()
    const batch = Array.from({ length: 256 }, (_, i) => wide(i + 1, 24))
    expect(await one(ZERO_POSITION, batch)).toMatchObject({ status: 'OK', appended: 256 })
    expect(await one(at(1), batch.slice(1))).toMatchObject({ status: 'OK', appended: 0, skipped: 255 })
    expect(await client.xlen(key)).toBe(256)
  })
})

describe('a probe', () => {
  /** How often each command that writes was called, from within scripts, too. */
  const writes = async () =>
    [...(await client.info('commandstats')).matchAll(/cmdstat_(hset|xadd|del):calls=\d+/g)].map(String)

  it('writes nothing to the head of its own session, nor where there is none', async () => {
    const { head } = await written(2)
    const before = await writes()
    expect(await writingNothing(() => one(at(2)))).toMatchObject({ status: 'OK', head, appended: 0, skipped: 0 })
    expect(await writingNothing(() => one(ZERO_POSITION))).toMatchObject({ status: 'OK', head })
    fresh()
    expect(await writingNothing(() => one(ZERO_POSITION))).toMatchObject({
      status: 'OK',
      head: { position: ZERO_POSITION, event: '', entry: '0-0' },
      session: '',
    })
    expect(await writes()).toEqual(before)
  })

  it('takes over the head of the expected session, and changes nothing else', async () => {
    await written(2)
    const before = await head()
    const [stream] = await dump(client, key)
    await call(client, { key, session: 'two', expected: 'one', previous: at(2) })
    expect(await head()).toEqual({ ...before, session: 'two' })
    expect((await dump(client, key))[0]).toBe(stream)
  })

  it('takes nothing over that is behind', async () => {
    await written(2)
    const claim = () => call(client, { key, session: 'two', expected: 'one', previous: at(3) })
    expect(await writingNothing(claim)).toMatchObject({ status: 'BEHIND', session: 'one' })
  })
})

it('says NOSCRIPT as an ERROR, and rejects when the outcome is not known', async () => {
  const stranger = redis.client()
  const args = batchArguments(fresh(), LINEAGE, 'one')
  args[0] = '0'.repeat(40)
  expect(await append(stranger, args, ZERO_POSITION)).toMatchObject({
    status: 'ERROR',
    error: expect.stringMatching(/^NOSCRIPT/),
  })
  const lost = append(stranger, batchArguments(key, LINEAGE, 'one'), ZERO_POSITION)
  closeRedis(stranger)
  await expect(lost).rejects.toThrow('Connection is closed')
})
