import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { expect, it } from 'vitest'
import { createEffects, readEffects } from '../../examples/demo/effects.js'
import { describe, latenciesOf, type Outcome, passed } from '../../examples/demo/summary.js'
import { compare, readStreams } from '../../testkit/oracle/differences.js'
import { createTruth, shaOf, type Truth } from '../../testkit/oracle/truth.js'
import { createDatabase, freshRedis } from '../../testkit/services/index.js'
import { allDone, main, outcomeOf } from './demo-env.js'

it('fails when an entry is missing from a stream', async () => {
  const redis = await freshRedis()
  const client = redis.client()
  const truth: Truth[] = []
  const entries: string[] = []
  for (let n = 1; n <= 3; n++) {
    const [id, data] = [`id-${n}`, `{"n":${n}}`]
    truth.push({ id, writer: 1, counter: n, stream: 'demo', subject: 'one', subjectSeq: n, sha: shaOf(data) })
    const fields = { id, subject: 'one', data, sequence: String(n) }
    entries.push((await client.xadd('demo', '*', ...Object.entries(fields).flat())) as string)
  }
  const outcome = async (): Promise<Outcome> => {
    const seen = await readStreams(client, ['demo'])
    const latencies = latenciesOf(seen, new Map([['id-1', Number.parseInt(entries[0] as string, 10) - 7]]))
    return { ...outcomeOf(truth, allDone(truth)), differences: compare(truth, seen), latencies }
  }
  const whole = await outcome()
  expect(passed(whole)).toBe(true)
  expect(describe(whole)).toMatch(/latency p99 +7 ms/)

  await client.xdel('demo', entries[2] as string)
  const less = await outcome()
  expect(passed(less)).toBe(false)
  expect(describe(less)).toMatch(/✘ lost +1 .*\n +id-3 in demo/)
  expect(describe(less)).toContain('A check failed: the streams')
  client.disconnect()
  await redis.remove()
})

it('fails when an event has no effect and another two, though their number is right', async () => {
  const database = await createDatabase()
  const client = await database.connect()
  await createTruth(client)
  await createEffects(client)
  const truth = [1, 2, 3].map((n): Truth => {
    const id = `00000000-0000-0000-0000-00000000000${n}`
    return { id, writer: 1, counter: n, stream: 'demo', subject: 'one', subjectSeq: n, sha: '' }
  })
  const [one, two, three] = truth.map(({ id }) => id)
  await client.query(`insert into truth select id, 1, 1, 'demo', 'one', 1, '' from unnest($1::uuid[]) as id`, [
    [one, two, three],
  ])
  const add = 'insert into effect select $1, id from unnest($2::uuid[]) as id'
  await client.query(add, ['billing', [one, two, three]])
  const done = { name: 'billing', effects: await readEffects(client, 'billing'), pending: 0, duplicates: 5, kills: 1 }
  expect(passed(outcomeOf(truth, done))).toBe(true)
  expect(describe(outcomeOf(truth, done))).toMatch(/duplicates +5 .*\n +worker kills +1 /)

  await client.query(add, ['search', [one, two, two]])
  const effects = await readEffects(client, 'search')
  expect(effects).toEqual({ count: 3, lost: [three], doubled: [two], phantom: [] })
  const wrong = outcomeOf(truth, done, { ...done, name: 'search', effects })
  expect(passed(wrong)).toBe(false)
  expect(describe(wrong)).toMatch(/✔ billing +3 .*: lost 0, doubled 0\n/)
  expect(describe(wrong)).toMatch(new RegExp(`✘ search +3 .*: lost 1, doubled 1\n +${three} lost\n +${two} doubled`))
  expect(describe(wrong)).toContain('A check failed: the effects')

  expect(passed(outcomeOf(truth, { ...done, pending: 1 }))).toBe(false)
  await client.query(add, ['billing', ['00000000-0000-0000-0000-000000000009']])
  expect(passed(outcomeOf(truth, { ...done, effects: await readEffects(client, 'billing') }))).toBe(false)
  await client.end()
  await database.drop()
})

it('says what is wrong with an option, and does not begin', async () => {
  const child = spawn(process.execPath, ['--import', 'tsx', main, '--events', 'many'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const [output, [code]] = await Promise.all([text(child.stderr), once(child, 'exit')])
  expect(code).toBe(2)
  expect(output).toContain('--events: expected a whole number from 100 to 1000000, found "many".')
})
