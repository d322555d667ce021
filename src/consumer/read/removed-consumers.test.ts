import { expect, test } from 'vitest'
import { removedConsumers } from './removed-consumers.js'

const AFTER = [30_000, 3_600_000] as const
const dead = { name: 'dead', pending: 3, idle: 30_001 }
const live = { name: 'live', pending: 9, idle: 10_000 }

test('a silent consumer that goes with its pending entries was removed by hand', () => {
  expect(removedConsumers([dead, live], [live], ...AFTER)).toEqual([dead])
})

test('a consumer that was alive, or had nothing pending, has left by itself', () => {
  expect(removedConsumers([live, { ...dead, pending: 0 }], [], ...AFTER)).toEqual([])
})

test('a consumer whose entries were claimed is still there', () => {
  expect(removedConsumers([dead], [{ ...dead, pending: 0 }], ...AFTER)).toEqual([])
})

test('a consumer that is long dead goes by itself, once another worker has claimed its entries', () => {
  expect(removedConsumers([{ ...dead, idle: 3_600_000 }], [live], ...AFTER)).toEqual([])
})
