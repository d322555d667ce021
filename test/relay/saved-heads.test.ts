import { expect } from 'vitest'
import { positionOf, positionPrefix } from '../../src/event/position.js'
import { parseLsn } from '../../src/postgres/client/lsn.js'
import { loadHeads, type SavedHead } from '../../src/postgres/state/heads.js'
import { currentLineage, type Lineage } from '../../src/postgres/state/lineage.js'
import { StateStore } from '../../src/relay/confirm/state-store.js'
import { relayTest as test } from './relay-env.js'

/** More than one statement loads, or saves. */
const HEADS = 2_500
const SESSION = '0b7fd6f4-6a2c-4f0e-8a61-6b1f0a3d9c11'

test('heads of more streams than a page holds are saved before what is confirmed, and come back in pages', async ({
  env,
}) => {
  const lineage = (await currentLineage(env.postgres, env.slot)) as Lineage
  const stateStore = new StateStore(env.postgres, lineage, SESSION, 0)
  await stateStore.begin('1.0.0', 1, async () => [])
  const heads = new Map<string, SavedHead>()
  for (let n = 0; n < HEADS; n++) {
    const position = positionOf(positionPrefix(1, BigInt(n + 1)), 0)
    heads.set(`stream-${n}`, { position, event: `e${n}`, entry: `${n}-1`, repairedBy: null })
  }
  const confirmed = parseLsn(lineage.confirmedLsn) + 8n
  await stateStore.save(confirmed, heads)

  expect(parseLsn(((await currentLineage(env.postgres, env.slot)) as Lineage).confirmedLsn)).toBe(confirmed)
  const pages: ReadonlyMap<string, SavedHead>[] = []
  for await (const page of stateStore.savedHeads()) pages.push(page)
  expect(pages.length).toBeGreaterThan(1)
  expect(new Map(pages.flatMap((page) => [...page]))).toEqual(heads)
  const two = await loadHeads(env.postgres, lineage.lineage, ['stream-7', 'stream-2499', 'of-no-event'])
  expect([...two.keys()].sort()).toEqual(['stream-2499', 'stream-7'])
})
