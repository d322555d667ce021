import { readFileSync } from 'node:fs'
import type { Redis as Client } from 'ioredis'
import { beforeEach, expect, onTestFinished, test } from 'vitest'
import { headKey, policyKey } from '../../src/event/names.js'
import { ZERO_POSITION } from '../../src/event/position.js'
import { loadAppend } from '../../src/redis/streams/append.js'
import { type GroupFloor, surveyForTrim, trim } from '../../src/redis/streams/trim.js'
import { seeded } from '../../testkit/oracle/writer.js'
import { needsProcess, startRedis } from '../../testkit/services/index.js'
import { at, call, events, LINEAGE } from '../support/events.js'

const KEY = 'orders'
const SESSION = 'one'
const END = '9999999999999-0'
const GROUPS = ['billing', 'mail', 'audit']

/** Removes what may go, up to the last entry. */
type Trim = (client: Client, known: readonly GroupFloor[]) => Promise<unknown>

/** What groups do to one stream in random order while it is trimmed. Resolves with entries that went and that a group had not finished. */
async function violationsOf(client: Client, seed: number, trimNow: Trim): Promise<string[]> {
  const random = seeded(seed)
  const pick = <T>(all: readonly T[]): T | undefined => all[Math.floor(random() * all.length)]
  const ids = async () => (await client.xrange(KEY, '-', '+')).map(([id]) => id)
  const finished = new Map<string, Set<string>>()
  const pending = new Map<string, string[]>()
  const known = new Map<string, string>()
  const violations: string[] = []
  let published = 0
  await client.flushall()
  const acts = {
    async publish() {
      const count = 1 + Math.floor(random() * 4)
      const previous = published === 0 ? ZERO_POSITION : at(published)
      const batch = events(published + 1, published + count)
      await call(client, { key: KEY, session: SESSION, previous, events: batch })
      published += count
    },
    async create() {
      const group = pick(GROUPS.filter((name) => !pending.has(name)))
      if (group === undefined || published === 0) return
      const isLate = random() < 0.3
      await client.xgroup('CREATE', KEY, group, isLate ? '$' : '0')
      pending.set(group, [])
      finished.set(group, new Set(isLate ? await ids() : []))
    },
    async read() {
      const group = pick([...pending.keys()])
      if (group === undefined) return
      const reply = await client.xreadgroup('GROUP', group, 'worker', 'COUNT', 3, 'STREAMS', KEY, '>')
      const [[, entries]] = (reply ?? [[KEY, []]]) as [[string, [string, string[]][]]]
      pending.get(group)?.push(...entries.map(([id]) => id))
    },
    async acknowledge() {
      const group = pick([...pending.keys()])
      const entry = group && pick(pending.get(group) ?? [])
      if (!group || !entry) return
      await client.xack(KEY, group, entry)
      finished.get(group)?.add(entry)
      pending.set(
        group,
        (pending.get(group) ?? []).filter((id) => id !== entry),
      )
    },
    async destroy() {
      const group = random() < 0.2 ? pick([...pending.keys()]) : undefined
      if (group === undefined) return
      await client.xgroup('DESTROY', KEY, group)
      pending.delete(group)
    },
    async trim() {
      const survey = await surveyForTrim(client, KEY, {
        lineage: LINEAGE,
        policy: '{}',
        retired: [],
        measures: { bytes: false, memory: false },
      })
      for (const { name, floor } of survey?.groups ?? []) known.set(name, floor)
      // Between the look and the trim.
      if (random() < 0.5)
        await (pick([acts.acknowledge, acts.read, acts.create, acts.publish]) as () => Promise<void>)()
      const before = await ids()
      await trimNow(
        client,
        [...known].map(([name, floor]) => ({ name, floor })),
      )
      const after = new Set(await ids())
      for (const id of before.filter((each) => !after.has(each))) {
        for (const [group, done] of finished) {
          if ((known.has(group) || pending.has(group)) && !done.has(id))
            violations.push(`seed ${seed}: ${id} went, and ${group} had not finished it`)
        }
      }
    },
  }
  const turns = [
    acts.publish,
    acts.create,
    acts.read,
    acts.read,
    acts.acknowledge,
    acts.acknowledge,
    acts.destroy,
    acts.trim,
  ]
  for (let n = 0; n < 150; n++) await (pick(turns) as () => Promise<void>)()
  return violations
}

const asItIs: Trim = (client, known) =>
  trim(
    client,
    { key: KEY, lineage: LINEAGE, session: SESSION, position: at(1) },
    { upTo: END, most: undefined },
    known,
    [],
  )

/** The same with a bug in its scripts. */
function planted(correct: string, wrong: string): Trim {
  const files = ['position', 'entry-id', 'stream-info', 'soundness', 'trim-step', 'trimmable', 'unfinished']
  const names = [...files.map((name) => `includes/${name}.lua`), 'trim.lua']
  const read = (name: string) => readFileSync(new URL(`../../src/redis/scripts/${name}`, import.meta.url), 'utf8')
  const source = names.map(read).join('\n')
  if (!source.includes(correct)) throw new Error(`Expected the scripts to have "${correct}".`)
  const text = source.replace(correct, wrong)
  return (client, known) => {
    const keys = [KEY, headKey(KEY, LINEAGE), policyKey(KEY)]
    const groups = known.flatMap(({ name, floor }) => [name, floor])
    return client.eval(text, keys.length, ...keys, LINEAGE, SESSION, at(1), END, '', ...groups)
  }
}

beforeEach((context) => needsProcess(context, ['redis']))

async function start(): Promise<Client> {
  const server = await startRedis()
  onTestFinished(() => server.remove())
  const client = server.client()
  onTestFinished(() => client.disconnect())
  await loadAppend(client)
  return client
}

test('whatever groups do meanwhile, no entry goes that a known group has not finished', async () => {
  const client = await start()
  for (let seed = 1; seed <= 40; seed++) expect(await violationsOf(client, seed, asItIs)).toEqual([])
})

test.each([
  ['a trim past what is pending', 'if group.pending > 0 then', 'if false then'],
  ['a trim past what a group that is gone had not finished', 'if not found[ARGV[n]] and', 'if false and'],
  ['a trim up to what was seen before', 'if before(group[2], floor) then floor = group[2] end', ''],
])('that test finds a planted bug: %s', async (_, correct, wrong) => {
  const client = await start()
  const trimWrongly = planted(correct, wrong)
  for (let seed = 1; seed <= 40; seed++) if ((await violationsOf(client, seed, trimWrongly)).length > 0) return
  expect.fail('Expected a violation in 40 schedules, found none.')
})
