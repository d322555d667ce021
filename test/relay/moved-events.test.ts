import pino from 'pino'
import { expect } from 'vitest'
import { ZERO_ENTRY } from '../../src/event/entry-id.js'
import { deadKey, replayedKey, waitingKey } from '../../src/event/names.js'
import type { SavedGroup } from '../../src/postgres/state/consumer-groups.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { StateStore } from '../../src/relay/confirm/state-store.js'
import { recordMoved } from '../../src/relay/trim/moved-events.js'
import { MovedMarks } from '../../src/relay/trim/moved-marks.js'
import { entryOf } from '../../testkit/entry.js'
import { until } from '../../testkit/services/index.js'
import { saved } from './redis-loss-env.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { putBack, REPAIR } from './repair-env.js'

const KEY = 'orders'
const WAITING = waitingKey(KEY, 'billing')
const DEAD = deadKey(KEY, 'billing')
const REPLAYED = replayedKey(KEY, 'billing')

/** Records what the group has moved. `between`: called between two of the streams that are read for it. */
async function recorder(env: RelayEnv) {
  const lineage = (await currentLineage(env.postgres, env.slot))!
  const stateStore = new StateStore(env.postgres, lineage, crypto.randomUUID(), 0)
  const marks = { waitingEntry: ZERO_ENTRY, deadEntry: ZERO_ENTRY, replayedEntry: ZERO_ENTRY }
  const record = (between?: () => unknown) => {
    let reads = 0
    const mark = (name: keyof typeof marks) => {
      if (++reads === 2) between?.()
      return marks[name]
    }
    const group: SavedGroup = {
      ...{ key: KEY, name: 'billing', floor: ZERO_ENTRY },
      get waitingEntry() {
        return mark('waitingEntry')
      },
      get deadEntry() {
        return mark('deadEntry')
      },
      get replayedEntry() {
        return mark('replayedEntry')
      },
    }
    const groups = {
      of: () => [group],
      advance: async (_: SavedGroup, next: typeof marks) => void Object.assign(marks, next),
    }
    return recordMoved(env.redis, stateStore, KEY, groups)
  }
  return { record, source: lineage.source }
}

const recorded = async (env: RelayEnv): Promise<string[]> =>
  (await env.postgres.query('select event_id from outrider.moved_event order by 1')).rows.map(
    ({ event_id }) => event_id,
  )

test('an event that moves on while it is looked for is recorded', async ({ env }) => {
  const { record, source } = await recorder(env)
  for (const [id, from, to] of [
    ['a', WAITING, DEAD],
    ['b', DEAD, REPLAYED],
  ] as const) {
    const entry = entryOf({}, { id, source })
    const place = (await env.redis.xadd(from, '*', ...entry)) as string
    expect(
      await record(
        () =>
          void env.redis
            .multi()
            .xadd(to, '*', ...entry)
            .xdel(from, place)
            .exec(),
      ),
    ).toBe(true)
    expect(await recorded(env)).toContain(id)
  }
})

test('of more moved events than are read at once, all are recorded in the end, however fast they came', async ({
  env,
}) => {
  const { record, source } = await recorder(env)
  const add = "for n = 1, 10500 do redis.call('XADD', KEYS[1], '*', 'id', n, 'source', ARGV[1]) end"
  await env.redis.eval(add, 1, DEAD, source)
  await env.redis.eval(add, 1, DEAD, source)
  let looks = 0
  while (!(await record()) && looks < 5) looks++
  expect(looks).toBe(2)
  expect((await recorded(env)).length).toBe(10_500)
})

/** As `recorder`, and forgets what is finished. `floor`: of the group. */
async function marker(env: RelayEnv) {
  const lineage = (await currentLineage(env.postgres, env.slot))!
  const stateStore = new StateStore(env.postgres, lineage, crypto.randomUUID(), 0)
  const group: SavedGroup = {
    ...{ key: KEY, name: 'billing', floor: ZERO_ENTRY },
    ...{ waitingEntry: ZERO_ENTRY, deadEntry: ZERO_ENTRY, replayedEntry: ZERO_ENTRY },
  }
  const groups = {
    of: () => [group],
    advance: async (_: SavedGroup, next: Partial<SavedGroup>) => void Object.assign(group, next),
  }
  const lines: Record<string, unknown>[] = []
  const marks = new MovedMarks({ stateStore, groups, log: pino({}, { write: (line) => lines.push(JSON.parse(line)) }) })
  const forget = async (floor: string, isSound = true) => {
    await marks.forget(env.redis, KEY, [{ name: 'billing', floor }], async () => isSound)
    return recorded(env)
  }
  const add = (key: string, id: string) => env.redis.xadd(key, '*', ...entryOf({}, { id, source: lineage.source }))
  return { marks, forget, add: async (key: string, id: string) => (await add(key, id)) as string, lines }
}

/** Behind all entries. */
const END = '9999999999999-0'

test('an event is forgotten once it is neither dead nor waiting, and every group has finished what was in the stream then', async ({
  env,
}) => {
  const { marks, forget, add } = await marker(env)
  const dead = await add(DEAD, 'dead')
  await add(WAITING, 'waiting')
  const first = await add(KEY, 'other')
  expect(await forget(END)).toEqual(['dead', 'waiting'])
  expect(await forget(END)).toEqual(['dead', 'waiting'])
  // It is put back, behind the first entry.
  await env.redis.xdel(DEAD, dead)
  const last = await add(KEY, 'dead')
  expect(await forget(END)).toEqual(['dead', 'waiting'])
  // A group is still there; Redis may have lost all of it.
  expect(await forget(first)).toEqual(['dead', 'waiting'])
  expect(await forget(last)).toEqual(['dead', 'waiting'])
  expect(await forget(END, false)).toEqual(['dead', 'waiting'])
  await env.postgres.query(
    "insert into outrider.incident (lineage, kind, reason) select lineage, 'gap', 'test' from outrider.lineage",
  )
  expect(await forget(END)).toEqual(['dead', 'waiting'])
  await env.postgres.query('delete from outrider.incident')
  expect(await forget(END)).toEqual(['waiting'])
  await env.redis.del(WAITING)
  expect(await forget(END)).toEqual(['waiting'])
  expect(marks.isDue(KEY, 0, undefined)).toBe(true)
  expect(await forget(END)).toEqual([])
  expect(marks.isDue(KEY, 1e9, undefined)).toBe(false)
})

test('one that becomes a dead letter again and is put back once more is not forgotten meanwhile', async ({ env }) => {
  const { forget, add } = await marker(env)
  await add(KEY, 'other')
  const replay = async () => {
    await env.redis.xdel(DEAD, await add(DEAD, 'a'))
    await add(REPLAYED, 'a')
    await add(KEY, 'a')
  }
  await replay()
  expect(await forget(END)).toEqual(['a'])
  await replay()
  expect(await forget(END)).toEqual(['a'])
  expect(await forget(END)).toEqual([])
})

test('a relay that may not delete the rows says so once', async ({ env }) => {
  const { forget, add, lines, marks } = await marker(env)
  await add(KEY, 'other')
  await env.redis.xdel(DEAD, await add(DEAD, 'a'))
  await add(REPLAYED, 'a')
  await env.postgres.query('revoke delete on outrider.moved_event from outrider_relay; set role outrider_relay')
  await forget(END)
  expect(await forget(END)).toEqual(['a'])
  await env.postgres.query('reset role')
  expect(lines.map(({ msg }) => msg)).toEqual([
    expect.stringMatching(/^outrider.moved_event grows: the role of the relay/),
  ])
  expect(marks.isDue(KEY, 0, undefined)).toBe(false)
})

test('a dead letter that was discarded does not come back when a stream is lost that was trimmed past it', async ({
  env,
  configFile,
}) => {
  const yaml = 'streams: { "*": { retention: 1s } }'
  await env.streamingRelay({ ...REPAIR, OUTRIDER_CONFIG: await configFile(yaml) })
  await env.redis.xgroup('CREATE', KEY, 'billing', '0', 'MKSTREAM')
  const events = [await env.insert(KEY), await env.insert(KEY)]
  await saved(env, 1, events[1])
  await env.postgres.query(
    `insert into outrider.checkpoint (lineage, lsn, snapshot)
     select lineage, pg_current_wal_insert_lsn(), pg_current_snapshot() from outrider.lineage`,
  )
  await env.redis.xreadgroup('GROUP', 'billing', 'worker', 'STREAMS', KEY, '>')
  const entries = await env.redis.xrange(KEY, '-', '+')
  const dead = (await env.redis.xadd(DEAD, '*', ...entries[0]![1])) as string
  await env.redis.xack(KEY, 'billing', ...entries.map(([entry]) => entry))
  // Committed after the checkpoint: the horizon does not see it.
  const last = await env.insert(KEY)
  await saved(env, 1, last)
  await until(async () => (await recorded(env)).includes(events[0]!), { message: 'the dead letter to be recorded' })
  await until(async () => (await env.postgres.query('select from outrider.horizon')).rowCount === 1)
  await env.redis.xdel(DEAD, dead)
  await env.redis.xgroup('SETID', KEY, 'billing', '$')
  await until(async () => (await recorded(env)).length === 0, { message: 'the discarded one to be forgotten' })
  await env.redis.del(KEY)
  const next = await env.insert(KEY)
  await putBack(env)
  await until(async () => (await env.ids(KEY)).includes(next))
  expect((await env.ids(KEY)).toSorted()).toEqual([last, next].toSorted())
})
