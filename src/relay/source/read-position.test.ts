import { expect, test } from 'vitest'
import { ReadPosition } from './read-position.js'

const never = new AbortController().signal
const lsnOf = (lsn: bigint) => lsn

test('work is done at once between two transactions, at the end of what was read', async () => {
  const position = new ReadPosition()
  position.begin()
  position.commit(80n)
  position.keepalive(96n)
  position.keepalive(88n)
  expect(await position.between(90n, lsnOf, never)).toBe(96n)
})

test('work waits for the end of the open transaction, whatever the server says of its WAL meanwhile', async () => {
  const position = new ReadPosition()
  position.begin()
  const done: bigint[] = []
  const work = position.between(0n, (lsn) => done.push(lsn), never)
  position.keepalive(400n)
  expect(done).toEqual([])
  position.commit(160n)
  // In the call itself: the next message may begin another transaction.
  expect(done).toEqual([160n])
  await work
})

test('work waits until so much was read', async () => {
  const position = new ReadPosition()
  const done: bigint[] = []
  const work = position.between(100n, (lsn) => done.push(lsn), never)
  position.begin()
  position.commit(80n)
  expect(done).toEqual([])
  position.keepalive(104n)
  await work
  expect(done).toEqual([104n])
})

test('work that fails rejects, and reading continues; an abort ends the wait', async () => {
  const position = new ReadPosition()
  const failing = position.between(
    80n,
    () => {
      throw new Error('no')
    },
    never,
  )
  position.begin()
  position.commit(80n)
  await expect(failing).rejects.toThrow('no')
  const ended = new AbortController()
  const waiting = position.between(160n, lsnOf, ended.signal)
  ended.abort(new Error('over'))
  await expect(waiting).rejects.toThrow('over')
  position.keepalive(160n)
})
