import type { Redis as Client } from 'ioredis'
import { describe, expect, onTestFinished, test } from 'vitest'
import { deadKey, headKey, policyKey } from '../../src/event/names.js'
import { ZERO_POSITION } from '../../src/event/position.js'
import { loadAppend } from '../../src/redis/streams/append.js'
import {
  countDead,
  cut,
  type GroupFloor,
  surveyForTrim,
  type TrimStep,
  trim,
  trimDead,
} from '../../src/redis/streams/trim.js'
import { type RedisVersion, redisVersion, startRedis } from '../../testkit/services/index.js'
import { at, call, events, LINEAGE } from '../support/events.js'

const KEY = 'orders'
const SESSION = 'one'
const POLICY = '{"groups":[]}'
const END: TrimStep = { upTo: '9999999999999-0', most: undefined }

/** The oldest that is supported where packages come from, and the newest. */
const VERSIONS: readonly RedisVersion[] = ['7.0', '8.10']

describe.each(VERSIONS)('trimming in Redis %s', (version) => {
  async function start(skip: () => void, count: number): Promise<Client> {
    const server = await startRedis({ version: await redisVersion({ skip }, version) })
    onTestFinished(() => server.remove())
    const client = server.client()
    onTestFinished(() => client.disconnect())
    await loadAppend(client)
    await publish(client, 1, count)
    await survey(client)
    return client
  }

  test('ends before the first entry that a group has not acknowledged, and before the first that it has not read', async ({
    skip,
  }) => {
    const client = await start(skip, 10)
    await client.xgroup('CREATE', KEY, 'billing', '0')
    await client.xgroup('CREATE', KEY, 'mail', '0')
    await read(client, 'billing', 10)
    const [first = '', second = '', third = '', fourth = ''] = await read(client, 'mail', 4)
    await client.xack(KEY, 'billing', ...(await ids(client)))
    await client.xack(KEY, 'mail', first, third, fourth)
    expect(await trimAll(client)).toBe(1)
    expect((await ids(client))[0]).toBe(second)
    await client.xack(KEY, 'mail', second)
    expect(await trimAll(client)).toBe(3)
    expect(await client.xlen(KEY)).toBe(6)
    const { groups = [] } = (await survey(client)) ?? {}
    expect(groups.map(({ name, unfinished }) => [name, unfinished])).toEqual([
      ['billing', 0],
      ['mail', 6],
    ])
  })

  test('measures the stream and the memory of its server, and counts the dead letters of each group', async ({
    skip,
  }) => {
    const client = await start(skip, 10)
    const few = (await survey(client))?.bytes ?? 0
    await publish(client, 11, 400)
    const { bytes = 0, memory } = (await survey(client)) ?? {}
    expect(few).toBeGreaterThan(100)
    expect(bytes).toBeGreaterThan(few * 2)
    expect(memory).toEqual({ used: expect.any(Number), max: undefined })
    expect(memory?.used).toBeGreaterThan(bytes)
    await client.config('SET', 'maxmemory', '1gb')
    expect((await survey(client))?.memory?.max).toBe(2 ** 30)

    await client.xadd(deadKey(KEY, 'mail'), '5-1', 'a', 'b')
    await client.xadd(deadKey(KEY, 'mail'), '*', 'a', 'b')
    expect(await countDead(client, KEY, ['billing', 'mail'])).toEqual([
      { count: 0, first: '0-0' },
      { count: 2, first: '5-1' },
    ])
  })

  test('continues where the user may not measure, and does not measure where it is not asked to', async ({ skip }) => {
    const client = await start(skip, 1)
    const unasked = { lineage: LINEAGE, policy: POLICY, retired: [], measures: { bytes: false, memory: false } }
    expect(await surveyForTrim(client, KEY, unasked)).toMatchObject({ length: 1, bytes: undefined, memory: undefined })
    await client.call('ACL', 'SETUSER', 'default', '-memory', '-info')
    expect(await survey(client)).toMatchObject({ length: 1, bytes: undefined, memory: undefined })
  })

  test('waits for a group that is known and missing, and for one that was made since the look', async ({ skip }) => {
    const client = await start(skip, 5)
    const [, , third = ''] = await ids(client)
    const mail = { name: 'mail', floor: third }
    expect(await trimAll(client, END, [mail])).toBe(2)
    await client.xgroup('CREATE', KEY, 'billing', '0')
    expect(await trimAll(client, END, [])).toBe(0)
    await client.xgroup('SETID', KEY, 'billing', '$')
    await client.xgroup('CREATE', KEY, 'mail', '$')
    expect(await trimAll(client, END, [mail])).toBe(3)
  })

  test('removes many entries in steps, to the last one', async ({ skip }) => {
    const client = await start(skip, 2_345)
    const first = await step(client)
    expect(first).toBeGreaterThan(0)
    expect(first).toBeLessThanOrEqual(1_000)
    expect(await trimAll(client)).toBe(2_345 - (first as number))
    expect(await client.exists(KEY)).toBe(1)
  })

  test('removes no more entries than it is told, where some are to stay', async ({ skip }) => {
    const client = await start(skip, 1_000)
    expect(await trimAll(client, { ...END, most: 250 })).toBeLessThanOrEqual(250)
    expect(await client.xlen(KEY)).toBeLessThanOrEqual(800)
    expect(await trimAll(client, { ...END, most: 5 })).toBe(0)
  })

  test('of dead letters ends with the first that is to stay', async ({ skip }) => {
    const client = await start(skip, 1)
    const dead = deadKey(KEY, 'billing')
    for (let n = 1; n <= 250; n++) await client.xadd(dead, `${n}-0`, 'id', String(n))
    const removed: number[] = []
    do removed.push(await trimDead(client, dead, '201-0'))
    while (removed.at(-1) !== 0)
    expect(removed.reduce((sum, each) => sum + each)).toBe(200)
    expect(await client.xlen(dead)).toBe(50)
    expect(await trimDead(client, deadKey(KEY, 'mail'), '201-0')).toBe(0)
  })

  test('to a length takes what groups have not finished, and says how many of each', async ({ skip }) => {
    const client = await start(skip, 30)
    for (const group of ['billing', 'mail', 'audit']) await client.xgroup('CREATE', KEY, group, '0')
    const [first = '', ...more] = await read(client, 'billing', 30)
    await client.xack(KEY, 'billing', ...more)
    await client.xack(KEY, 'mail', ...(await read(client, 'mail', 4)))
    const head = { key: KEY, lineage: LINEAGE, session: SESSION, position: at(1) }
    const found = await cut(client, head, 20, [])
    expect(found?.removed).toBe(10)
    expect([...(found?.unfinished ?? [])].toSorted()).toEqual([
      ['audit', 10],
      ['billing', 1],
      ['mail', 6],
    ])
    expect((await ids(client)).includes(first)).toBe(false)
    expect(await cut(client, head, 20, [])).toEqual({ removed: 0, unfinished: new Map() })
    expect(await cut(client, { ...head, session: 'two' }, 10, [])).toBeUndefined()
    await publish(client, 31, 35)
    expect((await cut(client, head, 20, []))?.unfinished).toEqual(
      new Map([
        ['audit', 5],
        ['mail', 5],
      ]),
    )
  })

  test('removes nothing where the head is another session’s, is behind, or the stream is not the one of the head', async ({
    skip,
  }) => {
    const client = await start(skip, 5)
    expect(await step(client, { session: 'two' })).toBeUndefined()
    expect(await step(client, { position: at(6) })).toBeUndefined()
    await client.del(KEY)
    expect(await step(client)).toBeUndefined()
    await client.xadd(KEY, '*', 'id', 'x')
    expect(await step(client)).toBeUndefined()
    expect(await client.xlen(KEY)).toBe(1)
  })

  test('removes nothing while another lineage in the stream has lost entries that it has not noticed', async ({
    skip,
  }) => {
    const client = await start(skip, 5)
    const other = '00000000-0000-0000-0000-000000000002'
    await call(client, { key: KEY, lineage: other, session: 'theirs', previous: ZERO_POSITION, events: events(1, 3) })
    await client.hset(policyKey(KEY), other, POLICY)
    // It has said so since the look.
    expect(await step(client)).toBeUndefined()
    await client.del(KEY)
    await client.hdel(headKey(KEY, LINEAGE), 'entry')
    await client.hset(headKey(KEY, LINEAGE), 'entry', '0-0')
    await client.xadd(KEY, '*', 'id', 'put back')
    expect(await step(client, {}, END, [], [other])).toBeUndefined()
    await client.del(headKey(KEY, other))
    expect(await step(client, {}, END, [], [other])).toBe(1)
  })

  test('leaves a stream that the next append finds sound, also when it is empty', async ({ skip }) => {
    const client = await start(skip, 3)
    expect(await trimAll(client)).toBe(3)
    const next = { key: KEY, session: SESSION, previous: at(3), events: events(4, 4) }
    expect(await call(client, next)).toMatchObject({ status: 'OK', appended: 1 })
    expect(await call(client, { ...next, events: [] })).toMatchObject({ status: 'OK' })
  })
})

const publish = (client: Client, from: number, to: number) =>
  call(client, {
    key: KEY,
    session: SESSION,
    previous: from === 1 ? ZERO_POSITION : at(from - 1),
    events: events(from, to),
  })

const MEASURES = { bytes: true, memory: true }

const survey = (client: Client) =>
  surveyForTrim(client, KEY, { lineage: LINEAGE, policy: POLICY, retired: [], measures: MEASURES })

const step = (
  client: Client,
  more: { session?: string; position?: string } = {},
  what: TrimStep = END,
  known: GroupFloor[] = [],
  others: string[] = [],
) => trim(client, { key: KEY, lineage: LINEAGE, session: SESSION, position: at(1), ...more }, what, known, others)

async function trimAll(client: Client, what: TrimStep = END, known: GroupFloor[] = []): Promise<number> {
  let all = 0
  for (let removed = -1; removed !== 0; all += removed) {
    const found = await step(client, {}, { ...what, most: what.most && what.most - all }, known)
    if (found === undefined) throw new Error('Expected the head to be as it must be.')
    removed = found
  }
  return all
}

const ids = async (client: Client) => (await client.xrange(KEY, '-', '+')).map(([id]) => id)

async function read(client: Client, group: string, count: number): Promise<string[]> {
  const reply = await client.xreadgroup('GROUP', group, 'worker', 'COUNT', count, 'STREAMS', KEY, '>')
  const [[, entries]] = reply as [[string, [string, string[]][]]]
  return entries.map(([id]) => id)
}
