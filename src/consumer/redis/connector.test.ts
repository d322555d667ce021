import { expect, test } from 'vitest'
import { connectorOf } from './connector.js'

test.each([
  [undefined, 'undefined'],
  [{ url: undefined }, 'undefined'],
  ['', 'an empty text'],
])('a URL that is not there is refused with what it is and where it may have come from: %j', (redis, found) => {
  expect(() => connectorOf(redis, 'billing')).toThrow(
    new TypeError(
      `Expected redis as a URL such as redis://localhost:6379, found ${found}. Where it comes from a variable of the ` +
        'environment, such as process.env.REDIS_URL, set that variable.',
    ),
  )
})

class Class {
  isOpen = false
  options = { url: 'redis://cache:6379' }
  duplicate() {}
}

class GlideClient {}

test.each([
  ['a client of node-redis', new Class(), 'a client of node-redis (the package redis)'],
  ['a cluster of node-redis', { isOpen: true, duplicate() {} }, 'a client of node-redis (the package redis)'],
  ['a client of GLIDE', new GlideClient(), 'an object of the class GlideClient'],
])('%s is refused by name', (_, redis, found) => {
  expect(() => connectorOf(redis as never, 'billing')).toThrow(`found ${found}. Give its URL`)
})

test('a cluster of another copy of ioredis is refused, and a client of one is taken', () => {
  const options = { host: 'cache', port: 6379 }
  const other = { status: 'wait', isCluster: true, options, duplicate() {} }
  expect(() => connectorOf(other as never, 'billing')).toThrow('found one of another copy')
  expect(connectorOf({ ...other, isCluster: false } as never, 'billing')).toBeTypeOf('function')
})
