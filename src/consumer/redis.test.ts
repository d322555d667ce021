import { expect, test } from 'vitest'
import { connectorOf } from './redis.js'

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
