import { expect, test } from 'vitest'
import { Changes } from './changes.js'

test('a wait ends at the first change after which its condition is true, and is asked no more after that', async () => {
  const changes = new Changes()
  let isOver = false
  let asked = 0
  let ended = false
  const wait = changes.until(() => {
    asked += 1
    return isOver
  }, 600_000)
  void wait.then(() => {
    ended = true
  })
  changes.tell()
  await Promise.resolve()
  expect({ asked, ended }).toEqual({ asked: 1, ended: false })
  isOver = true
  changes.tell()
  changes.tell()
  await wait
  expect(asked).toBe(2)
})

test('a wait ends without a change after its time', async () => {
  await expect(new Changes().until(() => false, 1)).resolves.toBeUndefined()
})
