import { expect, test } from 'vitest'
import { slowestTable } from './slowest-tests.js'

const timed = (milliseconds: number) => ({ file: 'a.test.ts', name: `takes ${milliseconds}`, milliseconds })

test('the table has the slowest tests first, with seconds, file and name', () => {
  expect(slowestTable([timed(40), timed(12_345), timed(1_000)])).toBe(
    [
      '\nSlowest 3 of 3 tests',
      '    12.3 s  a.test.ts  takes 12345',
      '     1.0 s  a.test.ts  takes 1000',
      '     0.0 s  a.test.ts  takes 40',
    ].join('\n'),
  )
})

test('the table ends after 20 tests', () => {
  const all = Array.from({ length: 30 }, (_, n) => timed(n))
  const [title, ...rows] = slowestTable(all).trim().split('\n')
  expect(title).toBe('Slowest 20 of 30 tests')
  expect(rows).toHaveLength(20)
})
