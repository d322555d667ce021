import type { EventDefinition } from '../event/define.js'
import type { EventInput } from '../producer/row.js'
import type { Duration } from './duration.js'
import type { ConsumerEvent, EventOf } from './event.js'

/** Inserts an event, or an array of events, into the outbox in the handler's transaction. See `publish` of 'outrider'. */
export interface Publish {
  <Event extends EventDefinition>(event: Event, input: EventInput<Event>): Promise<string>
  <Event extends EventDefinition>(event: Event, inputs: readonly EventInput<Event>[]): Promise<string[]>
}

/** The second argument of a handler. For a LongHandler it is the third argument of `commit`. */
export interface HandlerContext<Tx> {
  /**
   * The open transaction. Everything that is written through it is committed together with the inbox row of the event. A
   * use after the handler has returned throws an Error.
   */
  tx: Tx
  /**
   * Publishes in the same transaction. The outbox must be in this database, and the worker's role must be a member of
   * `outrider_writer`. Defaults: `causationId` is the event's id; `correlationId` is the event's `correlationId`, or its
   * id if it has none. In a batch handler there are no defaults.
   */
  publish: Publish
  /** The number of this attempt, from 1. */
  attempt: number
  /**
   * Aborted when a stop reaches its deadline, when the handler reaches its `timeout`, and when another worker has taken
   * over the event.
   */
  signal: AbortSignal
}

export type WorkContext = Pick<HandlerContext<never>, 'attempt' | 'signal'>

export type Handler<Event extends EventDefinition, Tx> = (
  event: EventOf<Event>,
  context: HandlerContext<Tx>,
) => Promise<unknown> | unknown

/** A handler in two steps, so that no transaction is open during long work. */
export interface LongHandler<Event extends EventDefinition, Tx, Result> {
  /**
   * Runs outside any transaction. It may run more than once for one event, for example after a crash or after `commit`
   * has failed.
   */
  work(event: EventOf<Event>, context: WorkContext): Promise<Result> | Result
  /** Runs inside a transaction, with the result of `work`. It may run more than once, but is committed once. */
  commit(event: EventOf<Event>, result: Result, context: HandlerContext<Tx>): Promise<unknown> | unknown
}

export type BatchHandler<Event extends EventDefinition, Tx> = (
  events: readonly EventOf<Event>[],
  context: HandlerContext<Tx>,
) => Promise<unknown> | unknown

export interface HandlerOptions<Event extends EventDefinition> {
  /** The most calls of this handler at once. Default and upper limit: the consumer's `concurrency`. */
  concurrency?: number | undefined
  /** The most failed attempts of an event before it is dead-lettered. Default: the consumer's. */
  maxAttempts?: number | undefined
  /** How long an event is retried, from its first failed attempt, before it is dead-lettered. Default: the consumer's. */
  retryFor?: Duration | undefined
  /**
   * The pauses between attempts. A pause is random, from half of a ceiling to the ceiling. The ceiling starts at `min`
   * and doubles up to `max`. A function gets the number of failed attempts, from 1, and returns the pause. Default: the
   * consumer's.
   */
  backoff?: BackoffOption | undefined
  /**
   * How long one call may take: `work` and `commit` each, or one batch. After this time the signal is aborted, the
   * transaction is rolled back, and the attempt has failed. Default: no limit.
   */
  timeout?: Duration | undefined
  /**
   * Returns a text of 1 to 1,000 characters that replaces the event's id for deduplication, within this type and group.
   * Use it if several events may request the same work, such as one version of an analysis of one file.
   */
  key?: ((event: EventOf<Event>) => string) | undefined
}

export interface BatchOptions<Event extends EventDefinition> extends HandlerOptions<Event> {
  /** The most events in one call: 1 to 10,000. Default 100. */
  size?: number | undefined
}

export type BackoffOption = { min?: Duration | undefined; max?: Duration | undefined } | ((attempt: number) => Duration)

/**
 * Around every call of a handler, for tracing and tenants. For a batch `event` is the array of its events. It must call `run`
 * once and return after the promise of `run` has settled; else the attempt fails. An error of `run` fails the attempt, whatever `wrap` does.
 */
export type Wrap<Tx> = <Result>(
  event: ConsumerEvent | ConsumerEvent[],
  run: () => Promise<Result>,
  context: WorkContext & Partial<HandlerContext<Tx>>,
) => Promise<Result>
