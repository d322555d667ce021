import { describe, expect, it } from 'vitest'
import { TransactionFailedError } from '../inbox/database.js'
import type { SessionState, Stage } from '../inbox/error-class.js'
import { decide, type FailurePolicy, isAttempt } from './failure-policy.js'
import { DeadLetter, Retry } from './retry-policy.js'

const NOW = Date.UTC(2026, 0, 1)
const retry = { maxAttempts: 5, retryFor: 60_000, backoff: (attempt: number) => attempt * 100 }
const byTime = { ...retry, maxAttempts: Number.POSITIVE_INFINITY }
const fresh = { attempts: 0, failingSince: undefined, interruptions: 0 }

const failed = (cause: unknown, stage: Stage = 'handler', session: SessionState = 'open') =>
  new TransactionFailedError(cause, stage, session)
const sqlError = (code: string) => Object.assign(new Error(code), { code })
const afterAttempts = (attempts: number, failingFor = 0) => ({ ...fresh, attempts, failingSince: NOW - failingFor })

const decideOn = (failure: TransactionFailedError, delivery = fresh as Parameters<typeof decide>[1], policy = {}) => {
  const whole: FailurePolicy = { retry, isAborted: false, isHeldBack: false, ...policy }
  return decide(failure, delivery, whole, NOW)
}

const boom = failed(new Error('boom'))
const deadlock = failed(sqlError('40P01'), 'handler', 'aborted')
const exhausted = { action: 'dead-letter', reason: 'attempts_exhausted', error: 'Error: boom' }
const conflict = { action: 'interrupted', databaseError: 'conflict' }

describe('a failed call', () => {
  it.each([
    ['at the deadline of the stop is released, whatever failed', boom, fresh, { isAborted: true }, 'released'],
    ['without the lease is fenced', failed(sqlError('OR001'), 'opening'), fresh, {}, 'fenced'],
    ['at the begin of a transaction is an outage', failed(sqlError('57P01'), 'opening'), fresh, {}, 'outage'],
    ['at a commit without a server is an outage', failed(sqlError('ECONNREFUSED'), 'commit'), fresh, {}, 'outage'],
    ['whose session ended in the handler is interrupted', failed(boom, 'handler', 'ended'), fresh, {}, 'interrupted'],
    ['that met another transaction is interrupted', deadlock, fresh, {}, 'interrupted'],
    ['that met one while its breaker is open is interrupted', deadlock, fresh, { isHeldBack: true }, 'interrupted'],
    ['that is not the probe of an open breaker is queued again', boom, fresh, { isHeldBack: true }, 'requeue'],
    ['of the handler is an attempt', boom, fresh, {}, 'retry'],
    ['of a deferred constraint is an attempt', failed(sqlError('23503'), 'commit'), fresh, {}, 'retry'],
    ['with the code of another database is an attempt', failed(sqlError('40P01')), fresh, {}, 'retry'],
    ['after the last attempt is dead-lettered', boom, afterAttempts(4), {}, 'dead-letter'],
  ] as const)('%s', (_, failure, delivery, policy, action) => {
    expect(decideOn(failure, delivery, policy).action).toBe(action)
  })

  it('counts as an attempt at the tenth interruption in a row', () => {
    expect(decideOn(deadlock, { ...fresh, interruptions: 8 })).toMatchObject(conflict)
    expect(decideOn(deadlock, { ...fresh, interruptions: 9 })).toMatchObject({ action: 'retry', after: 100 })
    expect(isAttempt(deadlock, [fresh, { interruptions: 8 }])).toBe(false)
    expect(isAttempt(deadlock, [fresh, { interruptions: 9 }])).toBe(true)
    expect(isAttempt(boom, [fresh])).toBe(true)
  })

  it('never counts as an attempt where another transaction holds the inbox row', () => {
    const locked = failed(sqlError('55P03'), 'opening')
    expect(decideOn(locked, { ...fresh, interruptions: 9 })).toMatchObject(conflict)
    expect(isAttempt(locked, [{ interruptions: 9 }])).toBe(false)
  })
})

describe('a failed attempt', () => {
  it.each([
    ['is followed by another one after the backoff', boom, afterAttempts(0), retry, 100],
    ['is followed by another one up to the last', boom, afterAttempts(3), retry, 400],
    ['is followed by the last one at the end of its time', boom, afterAttempts(899, 59_950), byTime, 50],
    ['is followed by another one when a Retry says so', failed(new Retry({ after: '10m' })), fresh, retry, 600_000],
    ['is followed by another one at once', failed(new Retry({ after: 0 })), afterAttempts(3), retry, 0],
    [
      'has the time of a Retry beyond its own',
      failed(new Retry({ after: '10m' })),
      afterAttempts(9, 59_950),
      byTime,
      600_000,
    ],
  ] as const)('%s', (_, failure, delivery, policy, after) => {
    expect(decideOn(failure, delivery, { retry: policy })).toEqual({ action: 'retry', after, cause: failure.cause })
  })

  it.each([
    ['is the last where no more are allowed', boom, afterAttempts(4), retry, exhausted],
    ['is the last where its time is over', boom, afterAttempts(900, 60_000), byTime, exhausted],
    ['is the last where it has no time', boom, fresh, { ...byTime, retryFor: 0 }, exhausted],
    [
      'is the last where a text was thrown',
      failed('text'),
      fresh,
      { ...retry, maxAttempts: 1 },
      { error: 'Error: text' },
    ],
    [
      'is the last where nothing was thrown',
      failed(undefined),
      afterAttempts(4),
      retry,
      { reason: 'attempts_exhausted' },
    ],
    [
      'is the last also with a Retry',
      failed(new Retry({ after: '1s', cause: new Error('busy') })),
      ...[afterAttempts(4), retry],
      { ...exhausted, error: 'Retry: To be tried again after 1s; caused by Error: busy' },
    ],
    [
      'is the last with a DeadLetter',
      failed(new DeadLetter('no such customer')),
      ...[fresh, retry],
      { action: 'dead-letter', reason: 'no such customer', error: 'DeadLetter: no such customer' },
    ],
    [
      'is the last with a DeadLetter, whose cause is the error',
      failed(new DeadLetter('gone', { cause: new Error('404') })),
      ...[fresh, retry],
      { action: 'dead-letter', reason: 'gone', error: 'Error: 404' },
    ],
  ] as const)('%s', (_, failure, delivery, policy, action) => {
    expect(decideOn(failure, delivery, { retry: policy })).toMatchObject(action)
  })

  it('is followed by another one after the default backoff where that of the team throws', () => {
    const backoffError = new Error('no backoff')
    const backoff = () => {
      throw backoffError
    }
    const action = decideOn(boom, afterAttempts(1), { retry: { ...retry, backoff } })
    expect(action).toMatchObject({ action: 'retry', cause: boom.cause, backoffError })
    // The second pause has a ceiling of two seconds.
    const after = 'after' in action ? action.after : undefined
    expect(after).toBeGreaterThanOrEqual(1_000)
    expect(after).toBeLessThanOrEqual(2_000)
  })
})
