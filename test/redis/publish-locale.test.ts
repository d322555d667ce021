import { afterEach, expect, it } from 'vitest'
import { type Position, positionOf, positionPrefix, ZERO_POSITION } from '../../src/event/position.js'
import { loadAppend } from '../../src/redis/streams/append.js'
import { daDK, needsProcess, type Redis, startRedis } from '../../testkit/services/index.js'
import { call } from '../support/events.js'

let redis: Redis | undefined

afterEach(async () => {
  await redis?.remove()
  redis = undefined
})

/** Rising, and with pairs of hexadecimal digits that Danish sorts as one letter: "aa" is "å", the last of its alphabet. */
function positions(): Position[] {
  const rising: Position[] = []
  for (let lsn = 0xa90n; lsn < 0xc10n; lsn += 1n) {
    for (const index of [0x9, 0xa9, 0xaa, 0xab, 0xb0]) rising.push(positionOf(positionPrefix(1, lsn), index))
  }
  return rising
}

it('drops nothing where strings sort by a locale other than C', async (context) => {
  needsProcess(context, ['redis'])
  const env = await daDK()
  if (!env) return context.skip('the locale da_DK cannot be had here')
  redis = await startRedis({ env })
  const client = redis.client()
  await loadAppend(client)
  const rising = positions()

  const falling = 'local n = 0 for i = 2, #ARGV do if ARGV[i] < ARGV[i - 1] then n = n + 1 end end return n'
  expect(await client.eval(falling, 0, ...rising)).toBeGreaterThan(0)
  expect([...rising].sort()).toEqual(rising)

  const key = 'orders'
  let previous = ZERO_POSITION
  for (let from = 0; from < rising.length; from += 7) {
    const events = rising
      .slice(from, from + 7)
      .map((position) => ({ position, id: position, fields: ['id', position] }))
    const reply = await call(client, { key, session: 'one', previous, events })
    expect(reply).toMatchObject({ status: 'OK', appended: events.length, skipped: 0 })
    const again = await call(client, { key, session: 'one', previous, events })
    expect(again).toMatchObject({ status: 'OK', appended: 0, skipped: events.length })
    previous = events.at(-1)!.position
  }
  const ids = (await client.xrange(key, '-', '+')).map(([, fields]) => fields[1])
  expect(ids).toEqual(rising)
  client.disconnect()
})
