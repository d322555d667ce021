import { expect, test } from 'vitest'
import { AppendedPages } from './appended-pages.js'

const heads = (positions: Record<string, string>, entry = '') =>
  new Map(
    Object.entries(positions).map(([key, position]) => [key, { position, event: '', entry: `${position}${entry}` }]),
  )
const page = (through: bigint, rejected = 0) => ({ through, rows: 10, rejected })

test('pages are durable in their order, once the head of each of their streams is saved', () => {
  const pages = new AppendedPages()
  pages.add(page(10n), heads({ a: '3', b: '3' }))
  pages.add(page(20n, 2), heads({ b: '5' }))
  pages.saved(heads({ b: '6' }))
  expect(pages.takeDurable()).toBeUndefined()
  pages.saved(heads({ a: '2' }))
  expect([pages.takeDurable(), pages.size]).toEqual([undefined, 2])
  pages.saved(heads({ a: '3' }))
  // The entries are those behind which later rows are, not those of the heads that were saved.
  expect(pages.takeDurable()).toEqual({
    through: 20n,
    rows: 20,
    rejected: 2,
    entries: new Map([
      ['a', '3'],
      ['b', '5'],
    ]),
  })
  expect([pages.takeDurable(), pages.size]).toEqual([undefined, 0])
})

test('what comes behind a page that is not durable waits for it', () => {
  const pages = new AppendedPages()
  pages.add(page(10n), heads({ a: '3' }))
  pages.add(page(20n), heads({ b: '3' }))
  pages.add(page(30n), heads({ a: '9' }))
  pages.saved(heads({ a: '5', b: '3' }))
  expect(pages.takeDurable()).toMatchObject({ through: 20n, rows: 20 })
  expect(pages.size).toBe(1)
})

test('a request that waits for room saves what becomes durable meanwhile, also while it saves', async () => {
  const pages = new AppendedPages()
  const { signal } = new AbortController()
  for (const n of [1, 2, 3]) pages.add(page(BigInt(n)), heads({ a: String(n) }))
  const taken: bigint[] = []
  const save = async ({ through }: { through: bigint }) => {
    taken.push(through)
    if (through === 1n) pages.saved(heads({ a: '2' }))
    return true
  }
  const drained = pages.drain(1, save, signal)
  pages.saved(heads({ a: '1' }))
  expect([await drained, taken, pages.size]).toEqual([true, [1n, 2n], 1])
})
