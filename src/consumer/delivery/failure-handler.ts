import type { TransactionFailedError } from '../inbox/database.js'
import type { Stage } from '../inbox/error-class.js'
import type { ConsumerMetrics } from '../metrics.js'
import type { ConsumerLogger } from '../options.js'
import type { Breakers } from './breakers.js'
import type { DatabaseBreaker } from './database-breaker.js'
import { countAttempt, countInterruption, type Delivery, isHeld } from './delivery.js'
import type { EntryMover } from './entry-mover.js'
import { decide, type FailureAction } from './failure-policy.js'
import type { HeldDeliveries } from './held-deliveries.js'
import { MAX_HELD_WAIT_MS } from './limits.js'
import { conflictPause, errorText } from './retry-policy.js'
import { logFields, type Settler } from './settler.js'

export interface FailureHandlerParts {
  ordered: boolean
  metrics: ConsumerMetrics
  log: ConsumerLogger
  held: HeldDeliveries
  settler: Settler
  mover: EntryMover
  breakers: Breakers
  databaseBreaker: DatabaseBreaker
  /** Another worker holds the stream of this key. */
  onFenced(key: string): void
}

type Interrupted = Extract<FailureAction, { action: 'interrupted' }>
type FailedAttempt = Extract<FailureAction, { action: 'retry' | 'dead-letter' }>

/** Carries out what the failure policy decides on a delivery whose call failed. */
export class FailureHandler {
  readonly #parts: FailureHandlerParts
  #isAborted = false

  constructor(parts: FailureHandlerParts) {
    this.#parts = parts
  }

  /** The deadline of the stop is over: a call that fails from now on was aborted. */
  abort(): void {
    this.#isAborted = true
  }

  handle(delivery: Delivery, failure: TransactionFailedError): void {
    const { metrics, held, breakers, databaseBreaker, onFenced } = this.#parts
    // For what does not run, one copy of a payload is enough.
    delivery.data = undefined
    if (!isHeld(delivery)) return
    const policy = {
      retry: delivery.route.policy,
      isAborted: this.#isAborted,
      isHeldBack: breakers.isHeldBack(delivery),
    }
    const action = decide(failure, delivery, policy, Date.now())
    switch (action.action) {
      case 'released':
        held.suspend(delivery)
        break
      case 'fenced':
        held.suspend(delivery)
        onFenced(delivery.group.stream)
        break
      case 'outage':
        metrics.retried(delivery.event.type, 'outage')
        databaseBreaker.open(action.cause)
        held.requeue(delivery)
        break
      case 'interrupted':
        this.#interrupted(delivery, failure.stage, action)
        break
      case 'requeue':
        // It was begun before the breaker opened: only the probe is an attempt.
        delivery.tried = true
        held.requeue(delivery)
        break
      case 'retry':
      case 'dead-letter':
        this.#attemptFailed(delivery, action)
    }
  }

  #interrupted(delivery: Delivery, stage: Stage, { databaseError, cause }: Interrupted): void {
    const { metrics, log, held, breakers } = this.#parts
    metrics.retried(delivery.event.type, databaseError)
    countInterruption(delivery, stage)
    const line = { ...logFields(delivery), conflicts: delivery.conflicts, err: cause }
    if (delivery.conflicts % 10 === 0) log.warn(line, 'a transaction meets others again and again; it runs again')
    else log.debug(line, 'a transaction met another one; it runs again')
    // Those that wait come to their end first: of this one nothing is lost but one conflict.
    if (delivery.interruptions <= 1 && breakers.isSurplus(delivery)) held.releaseOne(delivery)
    else held.wait(delivery, conflictPause(delivery.conflicts))
  }

  #attemptFailed(delivery: Delivery, action: FailedAttempt): void {
    const { ordered, metrics, log, mover, breakers } = this.#parts
    const { cause } = action
    delivery.tried = true
    breakers.failed(delivery, cause)
    countAttempt(delivery, Date.now())
    if (action.action === 'dead-letter') {
      mover.deadLetter(delivery, action.reason, action.error)
      return
    }
    const { after, backoffError } = action
    if (backoffError) log.error({ err: backoffError }, 'backoff failed; the default is used instead')
    metrics.retried(delivery.event.type, 'failed')
    log.warn({ ...logFields(delivery), attempt: delivery.attempts, after, err: cause }, 'an attempt failed')
    // An outcome: the deliveries without one are counted from the beginning again.
    delivery.deliveryCount = 0
    delivery.due = Date.now() + after
    const isSetAside = (after > MAX_HELD_WAIT_MS && !ordered) || breakers.isSurplus(delivery)
    if (isSetAside) void mover.setAside(delivery, errorText(cause), () => this.#hold(delivery))
    else this.#hold(delivery)
  }

  /** Keeps it until its next attempt. */
  #hold(delivery: Delivery): void {
    const { attempts, failingSince, due } = delivery
    this.#parts.settler.remember(delivery, { attempts, failingSince, due })
    this.#parts.held.wait(delivery, due - Date.now())
  }
}
