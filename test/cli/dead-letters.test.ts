import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import type { Redis as Client } from 'ioredis'
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { deadLetters } from '../../src/cli/dead-letters.js'
import { progress } from '../../src/cli/output.js'
import { deadKey, waitingKey } from '../../src/event/names.js'
import { closeRedis, connectRedis } from '../../src/redis/client/connect.js'
import { findDeadStreams, replayDeadLetters } from '../../src/redis/streams/dead-letters.js'
import { MAIN } from '../../testkit/outrider.js'
import { type FreshRedis, freePort, freshRedis, needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { type CommandRun, runCommand } from '../support/command.js'
import { createMigratedDatabase } from '../support/migrated-database.js'

let redis: FreshRedis
let client: Client

beforeEach(async () => {
  redis = await freshRedis()
  client = redis.client()
})

afterEach(async () => {
  client.disconnect()
  await redis.remove()
})

/** A Postgres that is not there: none of this may need one. */
const run = (args: string[], options?: CommandRun, url = redis.url) =>
  runCommand(deadLetters, 'postgres://127.0.0.1:1/none', {
    args,
    config: { redis: { url, connectTimeout: 5000 } },
    ...options,
  })

const original = (id: string, type = 'order.placed'): Record<string, string> => ({
  specversion: '1.0',
  id,
  source: '/shop',
  type,
  subject: 'order-1',
  time: '2025-01-01T00:00:00.000000Z',
  sequence: `0000-${id}`,
  datacontenttype: 'application/json',
  data: `{"id": "${id}",  "é": 1}`,
})

const DEATH = {
  deadreason: 'attempts',
  deaderror: 'Error: no stock',
  deadattempts: '10',
  deadtime: '2025-01-02T00:00:00.000Z',
  deadentry: '5-1',
}

interface Burial {
  stream?: string
  group?: string
  reason?: string
  fields?: Record<string, string>
}

async function deadLetter(
  { stream = 'orders', group = 'billing', reason = 'attempts', fields = {} }: Burial = {},
  on = client,
) {
  const all = Object.entries({ ...fields, ...DEATH, deadreason: reason }).flat()
  return (await on.xadd(deadKey(stream, group), '*', ...all)) as string
}

async function buryMany(count: number, written: Burial = {}, on = client): Promise<void> {
  for (let i = 0; i < count; i++) await deadLetter({ ...written, fields: original(`e${i}`) }, on)
}

const entries = async (key: string, on = client) =>
  (await on.xrange(key, '-', '+')).map(([, flat]) =>
    Object.fromEntries(flat.flatMap((name, i) => (i % 2 === 0 ? [[name, flat[i + 1]]] : []))),
  )
const idsIn = async (key: string, on = client) => (await entries(key, on)).map(({ id }) => id)
const dead = (stream = 'orders', group = 'billing') => deadKey(stream, group)

/** Letters in two streams, one of them with partitions, of two groups, two types and two reasons. */
async function buryVariety(): Promise<void> {
  await deadLetter({ fields: original('a') })
  await deadLetter({ fields: original('b', 'order.paid') })
  await deadLetter({ group: 'mail', reason: 'crashed', fields: original('a') })
  await deadLetter({ stream: 'users:0', fields: original('c') })
  await deadLetter({ stream: 'users:12', reason: 'crashed', fields: original('d') })
  await deadLetter({ stream: 'users-old', fields: original('e') })
}

/** What each selection means: stream, group, event id. */
const SELECTIONS: [string[], Record<string, string>, string[]][] = [
  [[], { stream: 'orders' }, ['orders billing a', 'orders billing b', 'orders mail a']],
  [[], { stream: 'users' }, ['users:0 billing c', 'users:12 billing d']],
  [[], { stream: 'users:12' }, ['users:12 billing d']],
  [[], { group: 'mail' }, ['orders mail a']],
  [[], { stream: 'users', group: 'mail' }, []],
  [[], { stream: 'orders', group: 'billing' }, ['orders billing a', 'orders billing b']],
  [[], { type: 'order.paid' }, ['orders billing b']],
  [[], { reason: 'crashed' }, ['orders mail a', 'users:12 billing d']],
  [[], { reason: 'crashed', stream: 'users' }, ['users:12 billing d']],
  [['a'], {}, ['orders billing a', 'orders mail a']],
  [['a', 'c'], { group: 'billing' }, ['orders billing a', 'users:0 billing c']],
]

describe('list', () => {
  test('nothing dead: exit code 0', async () => {
    expect(await run([])).toEqual({ code: 0, text: 'No dead letter.' })
    expect(JSON.parse((await run(['list'], { json: true })).text)).toMatchObject({ count: 0, letters: [] })
  })

  test('counts by kind, then the letters: exit code 4', async () => {
    const entry = await deadLetter({ fields: original('a') })
    await deadLetter({ fields: original('b') })
    await deadLetter({ group: 'mail', reason: 'crashed', fields: original('a') })
    const { code, text } = await run([])
    expect(code).toBe(4)
    const lines = text.split('\n').map((line) => line.trim().split(/ {2,}/))
    expect(lines.slice(0, 5)).toEqual([
      ['3 dead letters'],
      ['count', 'stream', 'group', 'reason'],
      ['2', 'orders', 'billing', 'attempts'],
      ['1', 'orders', 'mail', 'crashed'],
      [''],
    ])
    expect(lines.slice(5, 8)).toEqual([
      ['a', 'order.placed', 'order-1'],
      [`entry ${entry}`, '2025-01-02T00:00:00.000Z', 'orders', 'billing'],
      ['attempts after 10 attempts: Error: no stock'],
    ])
    expect(lines).toHaveLength(14)
  })

  test('what waits for its next attempt stands behind them with its due time, and is no finding', async () => {
    const due = '2026-03-02T10:02:11.000Z'
    const wait = ['waiting-attempts', '12', 'waiting-since', '1', 'waiting-error', 'Error: 503', 'waiting-due', due]
    const fields = [...Object.entries(original('e1')).flat(), ...wait, 'waiting-entry', '5-1']
    const entry = await client.xadd(waitingKey('orders', 'billing'), '*', ...fields)
    const { text, code } = await run(['list'])
    expect(code).toBe(0)
    expect(text).toContain('No dead letter.')
    expect(text).toMatch(
      new RegExp(`1 waiting .*e1 .*entry ${entry}  due ${due}  orders  billing\n  attempt 12 failed: Error: 503`, 's'),
    )
    expect((await run(['list', 'e1'])).code).toBe(0)
    await deadLetter({ group: 'mail', fields: original('a') })
    expect((await run(['list'], { flags: { group: 'mail' } })).text).not.toContain('waiting')
    await client.del(deadKey('orders', 'mail'))
    expect(JSON.parse((await run(['list'], { json: true })).text).waiting).toMatchObject({
      count: 1,
      letters: [{ id: 'e1', error: 'Error: 503', attempts: 12, due, originalEntry: '5-1' }],
    })
  })

  test.each(SELECTIONS)('%j %j', async (ids, flags, expected) => {
    await buryVariety()
    const { code, text } = await run(['list', ...ids], { flags, json: true })
    const { letters, count } = JSON.parse(text)
    expect(letters.map((letter: Record<string, string>) => `${letter.stream} ${letter.group} ${letter.id}`)).toEqual(
      expected,
    )
    expect([count, code]).toEqual([expected.length, expected.length > 0 ? 4 : 0])
  })

  test('a name is no pattern', async () => {
    await deadLetter({ stream: 's[1]', group: 'g*', fields: original('a') })
    await deadLetter({ stream: 's1', group: 'gg', fields: original('b') })
    const { text } = await run([], { flags: { stream: 's[1]', group: 'g*' }, json: true })
    expect(JSON.parse(text).letters).toMatchObject([{ id: 'a' }])
  })

  test('prints as many as --limit says, and how many more there are', async () => {
    await buryMany(120)
    expect((await run([])).text).toContain('… and 20 more; --limit')
    const { text } = await run([], { flags: { limit: '3' } })
    expect(text.match(/order\.placed/g)).toHaveLength(3)
    expect(text).toContain('… and 117 more')
    const { letters, more } = JSON.parse((await run([], { json: true, flags: { limit: '3' } })).text)
    expect([letters.length, more]).toEqual([3, 117])
  })

  test('a reason of its own for each letter is summed up', async () => {
    for (let i = 0; i < 30; i++) await deadLetter({ reason: `order ${i} not found`, fields: original(`e${i}`) })
    expect((await run([], { flags: { limit: '1' } })).text).toContain('… and 10 of other kinds')
  })

  test('nothing that was written there reaches the terminal raw, or makes a line long', async () => {
    const nasty = '\u001b]0;owned\u0007\u009b2J\r\n\u202e'
    await deadLetter({ reason: nasty, fields: { ...original(`${nasty}id`), type: 'x'.repeat(5000), subject: nasty } })
    await deadLetter({ fields: { [nasty]: nasty, data: `{\n\u001b[31m}` } })
    const ids = JSON.parse((await run([], { json: true })).text).letters.map(({ entry }: { entry: string }) => entry)
    for (const args of [['list'], ['show', ...ids]]) {
      for (const json of [false, true]) {
        const { text } = await run(args, { json })
        // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what must not be there
        expect(text.replaceAll('\n', '')).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202e]/)
        expect(text).toContain('\\u009b2J')
        if (json) expect(JSON.stringify(JSON.parse(text))).toContain('\u009b2J')
      }
    }
    expect(Math.max(...(await run(['list'])).text.split('\n').map((line) => line.length))).toBeLessThan(500)
    // A line of a payload cannot pass for a field.
    expect((await run(['show', ids[1]])).text).toMatch(/^data +\{\n {17}\\u001b\[31m\}$/m)
  })
})

describe('a filter', () => {
  const refusal = (action: string, flags: CommandRun['flags'] = {}) =>
    run([action], { flags, answer: true }).catch(({ exitCode, message }) => ({ exitCode, message }))

  test.each(['list', 'replay', 'discard'])(
    'of %s that names nothing that exists is refused, with what was meant',
    async (action) => {
      await buryVariety()
      const refused = (message: string) => ({ exitCode: 2, message: expect.stringContaining(message) })
      expect(await refusal(action, { stream: 'ordres' })).toEqual(
        refused('--stream: found no stream "ordres". Did you mean orders?'),
      )
      for (const stream of ['users:1', 'user*'])
        expect(await refusal(action, { stream })).toEqual(refused('found no stream'))
      expect(await refusal(action, { group: 'biling' })).toEqual(refused('Did you mean billing?'))
      expect(await refusal(action, { group: 'm*' })).toEqual(refused('found no group "m*". There is billing, mail.'))
      expect(await refusal(action, { type: 'order.pad' })).toEqual(refused('Did you mean order.paid?'))
      expect(await refusal(action, { reason: 'crash' })).toEqual(refused('Did you mean crashed?'))
      expect(await refusal(action, { type: 'mail.sent' })).toMatchObject({ code: 0 })
    },
  )

  test('that names a stream or group without dead letters is right', async () => {
    await client.xadd('mails', '*', ...Object.entries(original('a')).flat())
    await client.set('outrider:{parts}:partitions', '4')
    for (const stream of ['mails', 'parts']) expect(await refusal('list', { stream })).toMatchObject({ code: 0 })
    await client.xgroup('CREATE', 'mails', 'search', '0')
    expect(await refusal('list', { group: 'search' })).toMatchObject({ code: 0 })
  })
})

describe('show', () => {
  test.each(['event', 'dead letter'])('by the id of the %s: all of it', async (by) => {
    const entry = await deadLetter({ fields: original('a') })
    await deadLetter({ fields: original('b') })
    const { code, text } = await run(['show', by === 'event' ? 'a' : entry])
    expect(code).toBe(0)
    for (const part of [`dead letter      ${entry}`, 'stream           orders', 'group            billing'])
      expect(text).toContain(part)
    for (const [name, value] of Object.entries(original('a')))
      expect(text).toMatch(new RegExp(`^${name} +${value.replace(/[{}]/g, '\\$&')}$`, 'm'))
    for (const value of Object.values(DEATH)) expect(text).toContain(value)
    expect(text).not.toContain('"id": "b"')
  })

  test('as JSON, whole', async () => {
    const fields = { ...original('a'), data: JSON.stringify('x'.repeat(100_000)) }
    const entry = await deadLetter({ fields })
    expect(JSON.parse((await run(['show', 'a'], { json: true })).text)).toEqual([
      {
        stream: 'orders',
        group: 'billing',
        entry,
        id: 'a',
        type: 'order.placed',
        subject: 'order-1',
        reason: 'attempts',
        error: 'Error: no stock',
        attempts: 10,
        time: '2025-01-02T00:00:00.000Z',
        originalEntry: '5-1',
        fields,
      },
    ])
  })

  test('of an event that several groups gave up: each of them', async () => {
    await buryVariety()
    expect((await run(['show', 'a'])).text.match(/^group .*/gm)).toEqual([
      'group            billing',
      'group            mail',
    ])
  })
})

describe('replay', () => {
  test.each(SELECTIONS)('%j %j puts back those, and no other', async (ids, flags, expected) => {
    await buryVariety()
    const before = await whole()
    const { code, text } = await run(['replay', ...ids], { flags, answer: true })
    expect(code).toBe(0)
    if (expected.length > 0)
      expect(text).toMatch(new RegExp(`^${expected.length} of ${expected.length} put back\\.$`, 'm'))
    const after = await whole()
    expect(after.dead).toEqual(before.dead.filter((letter) => !expected.includes(letter)))
    expect(after.live).toEqual(expected.map((letter) => letter.replace(/ .* /, ' ')).sort())
  })

  test('the original comes back to the byte, without what the dead letter added', async () => {
    const data = Buffer.from([0x7b, 0xff, 0x00, 0x0a, 0x7d])
    await client.xadd(dead(), '*', 'id', 'a', 'header', 'h', 'data', data, ...Object.entries(DEATH).flat())
    await run(['replay', 'a'])
    expect((await client.xrangeBuffer('orders', '-', '+')).map(([, flat]) => flat)).toEqual([
      ['id', 'a', 'header', 'h', 'data', data].map((value) => Buffer.from(value as string)),
    ])
    expect(await client.xlen(dead())).toBe(0)
  })

  test('one is put back without a question; of several it says what it found, and asks', async () => {
    await buryMany(3)
    expect((await run(['replay', 'e0'])).text).toMatch(/1 of 1 put back\.$/)
    const refused = await run(['replay'], { flags: { group: 'billing' }, answer: false })
    expect(refused.code).toBe(1)
    expect(refused.text).toMatch(/^2 dead letters\n.*\n2 +orders +billing +attempts\nNothing was changed\.$/)
    expect([await client.xlen('orders'), await client.xlen(dead())]).toEqual([1, 2])
  })

  test('run again, it finds nothing to do', async () => {
    await buryMany(120)
    const flags = { all: true }
    expect(JSON.parse((await run(['replay'], { flags, answer: true, json: true })).text)).toEqual({
      found: 120,
      replayed: 120,
      gone: 0,
      kept: 0,
    })
    expect(await run(['replay'], { flags })).toEqual({ code: 0, text: 'No dead letter is selected.' })
    expect(await idsIn('orders')).toEqual(Array.from({ length: 120 }, (_, i) => `e${i}`))
  })

  test('stopped in the middle and run again, each is put back once, in order', async () => {
    await buryMany(120)
    const connection = await connectRedis({ url: redis.url, connectTimeout: 5000 }, 'test')
    onTestFinished(() => closeRedis(connection))
    for await (const { done } of replayDeadLetters(connection, await findDeadStreams(connection, {}), {})) {
      expect(done).toBe(50)
      break
    }
    expect([await client.xlen('orders'), await client.xlen(dead())]).toEqual([50, 70])
    await run(['replay'], { flags: { all: true }, answer: true })
    expect(await idsIn('orders')).toEqual(Array.from({ length: 120 }, (_, i) => `e${i}`))
  })

  test('by two at once: each is put back once', async () => {
    await buryMany(300)
    const both = await Promise.all(
      [0, 1].map(() => run(['replay'], { flags: { all: true }, answer: true, json: true })),
    )
    const [one, two] = both.map(({ text }) => JSON.parse(text))
    expect(one.replayed + two.replayed).toBe(300)
    expect((await idsIn('orders')).sort()).toEqual(Array.from({ length: 300 }, (_, i) => `e${i}`).sort())
    expect(await client.xlen(dead())).toBe(0)
  })

  test('what dies again meanwhile is left for the next time', async () => {
    await buryMany(120)
    await buryMany(1, { group: 'mail' })
    const connection = await connectRedis({ url: redis.url, connectTimeout: 5000 }, 'test')
    onTestFinished(() => closeRedis(connection))
    let done = 0
    for await (const batch of replayDeadLetters(connection, await findDeadStreams(connection, {}), {})) {
      done += batch.done
      for (let i = 0; i < batch.done; i++) {
        await deadLetter({ fields: original('again') })
        await deadLetter({ group: 'mail', fields: original('again') })
      }
      if (done > 121) break
    }
    expect(done).toBe(121)
    expect(await idsIn('orders')).not.toContain('again')
    expect([await client.xlen(dead()), await client.xlen(dead('orders', 'mail'))]).toEqual([121, 121])
  })

  test('large letters go a few at a time, and all of them', async () => {
    const data = 'x'.repeat(400_000)
    for (let i = 0; i < 7; i++) await deadLetter({ fields: { ...original(`e${i}`), data } })
    const connection = await connectRedis({ url: redis.url, connectTimeout: 5000 }, 'test')
    onTestFinished(() => closeRedis(connection))
    const sizes: number[] = []
    for await (const { done } of replayDeadLetters(connection, await findDeadStreams(connection, {}), {}))
      sizes.push(done)
    expect(sizes).toEqual([2, 2, 2, 1])
  })

  test('what has nothing of the original in it stays, and is said: exit code 4', async () => {
    await deadLetter()
    await deadLetter({ fields: original('a') })
    const { code, text } = await run(['replay'], { flags: { all: true }, answer: true })
    expect([code, await idsIn('orders'), await client.xlen(dead())]).toEqual([4, ['a'], 1])
    expect(text).toMatch(/^1 of 2 put back\. 1 were left: nothing of the original entry/m)
  })
})

describe('discard', () => {
  test.each(SELECTIONS)('%j %j removes those, and no other', async (ids, flags, expected) => {
    await buryVariety()
    const before = await whole()
    expect((await run(['discard', ...ids], { flags, answer: true })).code).toBe(0)
    expect(await whole()).toEqual({ live: [], dead: before.dead.filter((letter) => !expected.includes(letter)) })
  })

  test('asks even for one, and changes nothing without a yes', async () => {
    await buryMany(1)
    expect(await run(['discard', 'e0'], { answer: false })).toMatchObject({ code: 1 })
    await expect(run(['discard', 'e0'])).rejects.toThrow('Unexpected question: Discard this dead letter?')
    expect(await client.xlen(dead())).toBe(1)
  })

  test('many, and again', async () => {
    await buryMany(120)
    const flags = { all: true }
    const { text } = await run(['discard'], { flags, answer: true, json: true })
    expect(JSON.parse(text)).toEqual({ found: 120, discarded: 120, gone: 0, kept: 0, recorded: 0 })
    expect(await run(['discard'], { flags })).toEqual({ code: 0, text: 'No dead letter is selected.' })
  })

  test("records them as finished in the inbox of their group, where the workers' database is the one that is given", async () => {
    const database = await createMigratedDatabase('inbox')
    onTestFinished(() => database.drop())
    const workers = await database.connect()
    onTestFinished(() => workers.end())
    const discard = (more: CommandRun = {}) =>
      runCommand(deadLetters, database.url, {
        ...{
          args: ['discard'],
          flags: { all: true },
          answer: true,
          config: { redis: { url: redis.url, connectTimeout: 5000 } },
        },
        ...more,
      })
    await buryMany(2)
    // This group has an inbox in another database, if any.
    await buryMany(1, { group: 'mail' })
    await workers.query("insert into outrider.subscription (consumer_group, stream_key) values ('billing', 'orders')")
    await deadLetter({ reason: 'malformed', fields: { what: 'is this' } })
    const { text } = await discard()
    expect(text).toContain('4 of 4 discarded.\nNot recorded as finished: no inbox of mail is in this database.')
    const found = await workers.query('select consumer_group, source, id from outrider.inbox order by id')
    expect(found.rows).toEqual(['e0', 'e1'].map((id) => ({ consumer_group: 'billing', source: '/shop', id })))
    expect(await idsIn(dead())).toEqual([])

    // Nothing is removed that could not be recorded.
    await buryMany(1)
    await workers.query('alter table outrider.inbox add check (id is null) not valid')
    await expect(discard()).rejects.toThrow("The workers' database refused to record dead letters of billing")
    expect(await idsIn(dead())).toEqual(['e0'])
    await workers.query('drop schema outrider cascade')
    expect((await discard({ json: true })).text).toBe('{"found":1,"discarded":1,"gone":0,"kept":0,"recorded":0}')
  })

  test('says why nothing is recorded', async () => {
    await buryMany(1)
    expect((await run(['discard', 'e0'], { answer: true })).text).toMatch(
      /^1 of 1 discarded\.\nNot recorded as finished: the workers' database cannot be used \(.*\)\./m,
    )
  })
})

/** Every dead letter as stream, group and id, and every other entry as stream and id. */
async function whole(): Promise<{ dead: string[]; live: string[] }> {
  const all: { dead: string[]; live: string[] } = { dead: [], live: [] }
  for (const key of await client.keys('*')) {
    if ((await client.type(key)) !== 'stream' || key.includes(':replayed:')) continue
    const [, stream, group] = /^outrider:\{(.*)\}:dead:(.*)$/.exec(key) ?? []
    for (const id of await idsIn(key))
      (stream ? all.dead : all.live).push(stream ? `${stream} ${group} ${id}` : `${key} ${id}`)
  }
  return { dead: all.dead.sort(), live: all.live.sort() }
}

describe('a malformed letter without an id', () => {
  let entry: string
  beforeEach(async () => {
    entry = await deadLetter({ reason: 'malformed', fields: { what: 'is this' } })
  })

  test('is listed, and shown by its own id', async () => {
    expect((await run([])).text).toMatch(
      new RegExp(`^ +entry ${entry} .* orders +billing\n +malformed after 10 attempts`, 'm'),
    )
    expect(JSON.parse((await run([], { json: true })).text).letters).toMatchObject([{ entry, id: null, type: null }])
    expect((await run(['show', entry])).text).toMatch(/^what +is this$/m)
  })

  test('is put back', async () => {
    expect((await run(['replay', entry])).code).toBe(0)
    expect(await entries('orders')).toEqual([{ what: 'is this' }])
  })

  test('is discarded', async () => {
    expect((await run(['discard', entry], { answer: true })).code).toBe(0)
    expect(await whole()).toEqual({ dead: [], live: [] })
  })
})

describe('wrong usage', () => {
  test.each<[string[], Record<string, string | boolean>, string]>([
    [['replay'], {}, 'To replay all dead letters of all groups, say --all.'],
    [['discard'], {}, 'To discard all dead letters of all groups, say --all.'],
    [['replay'], { group: '' }, '--group: expected a value, found an empty one.'],
    [['discard', ''], {}, 'found an empty one'],
    [['show'], { group: 'billing' }, 'show: expected the id'],
    [['retry'], {}, 'Expected list, show, replay or discard, found "retry".'],
    [['list'], { limit: 'many' }, '--limit: expected a number of letters'],
    [['replay'], { group: 'billing', limit: '1' }, '--limit is for list'],
    [['list'], { all: true }, '--all is for replay and discard'],
  ])('%j %j', async (args, flags, message) => {
    await buryMany(1)
    await expect(run(args, { flags, answer: true })).rejects.toMatchObject({
      name: 'OutriderError',
      exitCode: 2,
      message: expect.stringContaining(message),
    })
    expect(await client.xlen(dead())).toBe(1)
  })
})

test.each(['list', 'show', 'replay', 'discard'])(
  '%s of an id that is not there fails, the others are done',
  async (action) => {
    await buryMany(2)
    await expect(run([action, 'nope', 'e1'], { answer: true })).rejects.toMatchObject({
      exitCode: 1,
      message: expect.stringContaining('Found no selected dead letter with the id nope:'),
    })
    expect(await idsIn('orders')).toEqual(action === 'replay' ? ['e1'] : [])
    expect(await idsIn(dead())).toEqual(action === 'replay' || action === 'discard' ? ['e0'] : ['e0', 'e1'])
  },
)

describe('when Redis refuses', () => {
  test.for(['xadd', 'xdel', 'xrange'])(
    '%s is not permitted: nothing is put back, and nothing twice later',
    async (command, context) => {
      needsProcess(context, ['redis'])
      await buryMany(60)
      await client.call('ACL', 'SETUSER', 'operator', 'on', '>secret', '~*', '&*', '+@all', `-${command}`)
      const url = redis.url.replace('redis://', 'redis://operator:secret@')
      const replay = () => run(['replay'], { flags: { all: true }, answer: true }, url)
      for (let i = 0; i < 2; i++) {
        await expect(replay()).rejects.toMatchObject({
          exitCode: 1,
          message: expect.stringMatching(/^Redis refused: .*Permit it in the ACL of the user/),
        })
      }
      expect([await client.xlen('orders'), await client.xlen(dead())]).toEqual([0, 60])
      await client.call('ACL', 'SETUSER', 'operator', `+${command}`)
      expect((await replay()).code).toBe(0)
      expect([await client.xlen('orders'), await client.xlen(dead())]).toEqual([60, 0])
    },
  )

  test('in the middle: says what was done before, and continues when it is run again', async () => {
    await buryMany(60, { stream: 'a' })
    await buryMany(60, { stream: 'b' })
    await client.set('b', 'no stream')
    const replay = () => run(['replay'], { flags: { all: true }, answer: true })
    await expect(replay()).rejects.toMatchObject({
      exitCode: 1,
      message: expect.stringMatching(/WRONGTYPE.*\(stream b\).* 60 dead letters were put back before; run it again/),
    })
    expect([await client.xlen('a'), await client.xlen(dead('b'))]).toEqual([60, 60])
    await client.del('b')
    await replay()
    expect([await client.xlen('a'), await client.xlen('b'), await client.xlen(dead('b'))]).toEqual([60, 60, 0])
  })

  test('without memory nothing is put back; discarding is possible', async (context) => {
    needsProcess(context, ['redis'])
    const full = await startRedis()
    const on = full.client()
    onTestFinished(() => full.remove())
    onTestFinished(() => on.disconnect())
    await buryMany(2, {}, on)
    await full.config('maxmemory', '1')
    const flags = { all: true }
    await expect(run(['replay'], { flags, answer: true }, full.url)).rejects.toThrow(/Redis refused: OOM.*give it more/)
    expect([await on.xlen('orders'), await on.xlen(dead())]).toEqual([0, 2])
    expect((await run(['discard', 'e0'], { answer: true }, full.url)).code).toBe(0)
    await full.config('maxmemory', '0')
    expect((await run(['replay'], { flags, answer: true }, full.url)).code).toBe(0)
    expect(await idsIn('orders', on)).toEqual(['e1'])
  })

  test('unreachable: exit code 3', async () => {
    const url = `redis://127.0.0.1:${await freePort()}`
    await expect(run([], {}, url)).rejects.toMatchObject({ name: 'OutriderError', exitCode: 3 })
  })
})

test('a cluster', async (context) => {
  needsProcess(context, ['redis'])
  const node = await startRedis({
    settings: {
      'cluster-enabled': 'yes',
      'cluster-announce-ip': '127.0.0.1',
      // By default the port and 10,000, which somebody's outgoing connection may have.
      'cluster-port': String(await freePort()),
    },
  })
  const on = node.client()
  onTestFinished(() => node.remove())
  onTestFinished(() => on.disconnect())
  await on.call('CLUSTER', 'ADDSLOTSRANGE', '0', '16383')
  await until(async () => String(await on.call('CLUSTER', 'INFO')).includes('cluster_state:ok'))
  await buryMany(3, { stream: 'orders:0' }, on)
  await buryMany(3, { stream: 'users' }, on)
  const url = node.url.replace('redis:', 'redis+cluster:')
  expect((await run([], {}, url)).text).toMatch(/^6 dead letters/)
  expect((await run(['replay'], { flags: { stream: 'orders' }, answer: true }, url)).code).toBe(0)
  expect([await on.xlen('orders:0'), await on.xlen(dead('users'))]).toEqual([3, 3])
})

describe('progress', () => {
  test('is a line on a terminal, which goes away', () => {
    const written: string[] = []
    const line = progress({ isTTY: true, write: (text: string) => written.push(text) > 0 })
    line.clear()
    expect(written).toEqual([])
    line.show(() => '1 of 9')
    line.show(() => '2 of 9')
    line.clear()
    expect(written).toEqual(['\r\u001b[2K1 of 9', '\r\u001b[2K'])
  })

  test('without a terminal there is none, and no question without --yes', async () => {
    await buryMany(3)
    const ran = await outrider(['dead-letters', 'discard', '--group', 'billing'])
    expect(ran).toMatchObject({
      code: 2,
      err: expect.stringMatching(/^outrider: Discard these 3 dead letters\? There is no terminal[^\n]*\n$/),
    })
    expect(await outrider(['dead-letters', 'discard', '--group', 'billing', '--yes', '--json'])).toEqual({
      code: 0,
      out: '{"found":3,"discarded":3,"gone":0,"kept":0,"recorded":0}\n',
      err: '',
    })
  })
})

async function outrider(args: string[]): Promise<{ code: number; out: string; err: string }> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: {
      PATH: process.env.PATH,
      OUTRIDER_POSTGRES_URL: 'postgres://127.0.0.1:1/none',
      OUTRIDER_REDIS_URL: redis.url,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  const [out, err, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { code, out, err }
}
