import { expect, test } from 'vitest'
import { removedConsumers } from './removed-consumers.js'

const CLAIM_AFTER = 30_000
const dead = { name: 'dead', pending: 3, idle: 30_001 }
const live = { name: 'live', pending: 9, idle: 10_000 }

test('a silent consumer that goes with its pending entries was removed by hand', () => {
  expect(removedConsumers([dead, live], [live], CLAIM_AFTER)).toEqual([dead])
})

test('a consumer that was alive, or had nothing pending, has left by itself', () => {
  expect(removedConsumers([live, { ...dead, pending: 0 }], [], CLAIM_AFTER)).toEqual([])
})

test('a consumer whose entries were claimed is still there', () => {
  expect(removedConsumers([dead], [{ ...dead, pending: 0 }], CLAIM_AFTER)).toEqual([])
})
