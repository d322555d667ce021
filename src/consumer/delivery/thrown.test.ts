import { expect, it } from 'vitest'
import { errorOf, errorsOf, messagesOf } from './thrown.js'

const hostile = (target: object = {}) =>
  new Proxy(target, {
    get() {
      throw new Error('no')
    },
    getPrototypeOf() {
      throw new Error('no')
    },
  })

it.each([
  [undefined, 'undefined'],
  [null, 'null'],
  [Object.create(null), '{}'],
  [{ code: '40001' }, '{"code":"40001"}'],
  [Symbol('s'), 'Symbol(s)'],
  [hostile(), 'a value of type object that cannot be read'],
  [hostile(new Error('boom')), 'a value of type object that cannot be read'],
])('%#: what is no error becomes one that says what was thrown', (thrown, found) => {
  const message = `Expected an Error to be thrown, found ${found}.`
  expect(errorOf(thrown)).toEqual(new Error(message))
  expect(messagesOf(thrown)).toBe(found)
  expect(messagesOf(errorOf(thrown))).toBe(`Error: ${message}`)
})

it('an error stays itself, and one that cannot be read ends the list of its causes', () => {
  const error = new TypeError('outer', { cause: hostile() })
  expect(errorOf(error)).toBe(error)
  expect(errorsOf(error)).toEqual([error])
  expect(messagesOf(error)).toBe('TypeError: outer; caused by a value of type object that cannot be read')
  expect(messagesOf(new Error('boom', { cause: Object.create(null) }))).toBe('Error: boom; caused by {}')
})
