import { expect, test } from 'vitest'
import { explainRedisStartupError, explainStartupError } from './startup-error.js'

test('a connection that is lost while the consumer starts is named after what it led to', () => {
  const lost = new Error('Connection is closed.')
  expect(explainRedisStartupError(lost)).toMatchObject({
    message: expect.stringMatching(/^Redis cannot be used: Connection is closed\. The/),
    exitCode: 3,
  })
  expect(explainStartupError(explainRedisStartupError(lost))).toMatchObject({
    message: expect.stringMatching(/^Redis cannot be used/),
  })
  expect(explainStartupError(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }))).toMatchObject({
    message: expect.stringMatching(/^The workers' database cannot be used/),
  })
})

test('what Redis replies is left as it is', () => {
  const reply = Object.assign(new Error('NOPERM'), { name: 'ReplyError' })
  expect(explainRedisStartupError(reply)).toBe(reply)
})
