import pg from 'pg'
import { expect, it } from 'vitest'
import { databaseOf } from './database-of.js'

it('many consumers on one pool share one listener for lost connections, which goes with the last of them', () => {
  const pool = new pg.Pool()
  const told: string[] = []
  const listener = (error: Error) => void told.push(error.message)
  // More than an emitter takes without a warning.
  const ends = Array.from({ length: 11 }, () => databaseOf(pool).onIdleLoss(listener))
  expect(pool.listenerCount('error')).toBe(1)
  pool.emit('error', new Error('ended'), {} as pg.PoolClient)
  expect(told).toEqual(Array(11).fill('ended'))
  for (const end of ends.slice(1)) end()
  for (const end of ends.slice(1)) end()
  expect(pool.listenerCount('error')).toBe(1)
  ends[0]?.()
  expect(pool.listenerCount('error')).toBe(0)
  const again = databaseOf(pool).onIdleLoss(listener)
  expect(pool.listenerCount('error')).toBe(1)
  again()
  expect(pool.listenerCount('error')).toBe(0)
})
