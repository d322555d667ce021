import { maskUrlsIn } from '../../base/secret.js'
import { type Duration, durationOf } from '../duration.js'
import { messagesOf } from './thrown.js'

/**
 * Thrown by a handler: try again after this time, whatever the backoff would be. Counts as an attempt like any other.
 *
 *     throw new Retry({ after: '10m' })
 */
export class Retry extends Error {
  override name = 'Retry'
  /** Milliseconds. */
  readonly after: number

  constructor(options: { after: Duration; cause?: unknown }) {
    const after = durationOf("Retry's after", options.after, 0)
    super(`To be tried again after ${options.after}`, 'cause' in options ? { cause: options.cause } : undefined)
    this.after = after
  }
}

/**
 * Thrown by a handler: this event can never be done. It is moved to the group's dead letters with the reason, without
 * further attempts.
 *
 *     throw new DeadLetter('no such customer')
 */
export class DeadLetter extends Error {
  override name = 'DeadLetter'

  constructor(reason: string, options?: { cause?: unknown }) {
    super(reason, options)
  }
}

/** Milliseconds before the next attempt; `attempt`: how many have failed, from 1. */
export type Backoff = (attempt: number) => number

/** Exponential with jitter: from half the ceiling up to it, so that what failed together does not run again together. */
export const exponential =
  (min: number, max: number, random: () => number = Math.random): Backoff =>
  (attempt) =>
    Math.ceil(((1 + random()) / 2) * Math.min(max, min * 2 ** Math.min(attempt - 1, 40)))

/** Between the attempts of a transaction that met another one. */
export const conflictPause = exponential(20, 5_000)

export interface RetryPolicy {
  /** Infinity where only the time counts. */
  maxAttempts: number
  /** From the first failed attempt, in milliseconds. */
  retryFor: number
  backoff: Backoff
}

const MOST_ERROR_TEXT = 4_096

/** An error as a dead letter tells it: names, messages and causes. */
export const errorText = (error: unknown): string => cutText(maskUrlsIn(messagesOf(error)))

/** As much of a text as a dead letter and a line of the log hold. */
export const cutText = (text: string): string => text.slice(0, MOST_ERROR_TEXT)
