import { maskUrlsIn } from '../../base/secret.js'
import { backoffOf } from '../handler-registry.js'
import type { TransactionFailedError } from '../inbox/database.js'
import { classifyDatabaseError, type DatabaseErrorClass } from '../inbox/error-class.js'
import type { Delivery } from './delivery.js'
import { DeadLetter, errorText, Retry, type RetryPolicy } from './retry-policy.js'
import { errorOf } from './thrown.js'

/**
 * The next step for a delivery whose call failed.
 *
 * released     the stop has aborted the call: the entry is released with the rest
 * fenced       another worker holds the stream
 * outage       the database cannot be used: the delivery runs again once it can
 * interrupted  its transaction met another one, or its session ended: it runs again after a short pause, and this is no attempt
 * requeue      the circuit breaker is open, and this is not its probe: it runs again once the breaker is closed
 * retry        an attempt has failed, and the next one is `after` milliseconds later
 * dead-letter  an attempt has failed, and it was the last
 */
export type FailureAction =
  | { action: 'released' }
  | { action: 'fenced' }
  | { action: 'outage'; cause: Error }
  | { action: 'interrupted'; databaseError: DatabaseErrorClass; cause: Error }
  | { action: 'requeue' }
  /** `backoffError`: the team's `backoff` has failed with it, so the default was used. */
  | { action: 'retry'; after: number; cause: Error; backoffError?: Error }
  | { action: 'dead-letter'; reason: string; error: string; cause: Error }

export interface FailurePolicy {
  /** The options of the handler. */
  retry: RetryPolicy
  /** The deadline of the stop is over. */
  isAborted: boolean
  /** The circuit breaker of the handler is open, and this delivery is not its probe. */
  isHeldBack: boolean
}

type FailedCall = Pick<TransactionFailedError, 'cause' | 'stage' | 'session'>

/**
 * Interruptions of one event after which they count as an attempt: a lock that is never free, or a handler that ends its own
 * session, must come to an end.
 */
const MAX_INTERRUPTIONS = 10

const DEFAULT_BACKOFF = backoffOf('backoff', undefined)

/** Decides on a failed call. `now`: milliseconds since 1970. Pure, but for the team's `backoff` and its jitter. */
export function decide(
  failure: FailedCall,
  delivery: Pick<Delivery, 'attempts' | 'failingSince' | 'interruptions'>,
  { retry, isAborted, isHeldBack }: FailurePolicy,
  now: number,
): FailureAction {
  if (isAborted) return { action: 'released' }
  const databaseError = classifyDatabaseError(failure)
  const cause = errorOf(failure.cause)
  if (databaseError === 'fenced') return { action: 'fenced' }
  if (databaseError === 'outage' && failure.stage !== 'handler') return { action: 'outage', cause }
  if (databaseError && !exceedsInterruptions(failure, [delivery]))
    return { action: 'interrupted', databaseError, cause }
  if (isHeldBack) return { action: 'requeue' }
  const attempts = delivery.attempts + 1
  try {
    return decideAttempt(cause, attempts, now - (delivery.failingSince ?? now), retry)
  } catch (error) {
    // A `backoff` that throws, or returns no duration, must not keep the event from its end.
    return { action: 'retry', after: DEFAULT_BACKOFF(attempts), cause, backoffError: errorOf(error) }
  }
}

/** Whether this failure of a call with all of these is an attempt of one of them. */
export const isAttempt = (failure: FailedCall, deliveries: readonly Pick<Delivery, 'interruptions'>[]): boolean =>
  !classifyDatabaseError(failure) || exceedsInterruptions(failure, deliveries)

const exceedsInterruptions = ({ stage }: FailedCall, deliveries: readonly Pick<Delivery, 'interruptions'>[]): boolean =>
  stage !== 'opening' && deliveries.some(({ interruptions }) => interruptions + 1 >= MAX_INTERRUPTIONS)

/**
 * `attempts`: those that have failed, with this one; `failingFor`: milliseconds since the first of them. The last attempt is made
 * when the time is over, not before.
 */
function decideAttempt(cause: Error, attempts: number, failingFor: number, policy: RetryPolicy): FailureAction {
  if (cause instanceof DeadLetter) {
    const [reason, error] = [maskUrlsIn(cause.message), errorText(cause.cause ?? cause)]
    return { action: 'dead-letter', reason, error, cause }
  }
  const left = policy.retryFor - failingFor
  if (attempts >= policy.maxAttempts || left <= 0) {
    return { action: 'dead-letter', reason: 'attempts_exhausted', error: errorText(cause), cause }
  }
  return {
    action: 'retry',
    after: cause instanceof Retry ? cause.after : Math.min(policy.backoff(attempts), left),
    cause,
  }
}
