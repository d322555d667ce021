import { expect } from 'vitest'
import { ZERO_ENTRY } from '../../src/event/entry-id.js'
import { deadKey, replayedKey, waitingKey } from '../../src/event/names.js'
import type { SavedGroup } from '../../src/postgres/state/consumer-groups.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { StateStore } from '../../src/relay/confirm/state-store.js'
import { recordMoved } from '../../src/relay/trim/moved-events.js'
import { entryOf } from '../../testkit/entry.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

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
