import type { EventDefinition } from '../event/define.js'
import type { EventInput } from '../outbox/row.js'
import type { Duration } from './duration.js'
import type { ConsumerEvent, EventOf } from './event.js'

/** Inserts an event into the outbox, in the handler's transaction: see `publish` of 'outrider'. */
export interface Publish {
  <Event extends EventDefinition>(event: Event, input: EventInput<Event>): Promise<string>
  <Event extends EventDefinition>(event: Event, inputs: readonly EventInput<Event>[]): Promise<string[]>
}

/** What a handler gets beside the event. */
export interface HandlerContext<Tx> {
  /**
   * The open transaction: with it, effects are committed together with the record that the event is done. A use after the handler
   * has returned is refused.
   */
  tx: Tx
  /**
   * Publishes in the same transaction: the outbox must be in this database, and the worker's role in `outrider_writer`.
   * `correlationId` is by default that of the event, or its id; `causationId` is the event's id.
   */
  publish: Publish
  /** From 1. */
  attempt: number
  /** Aborted when a stop has reached its deadline, the handler its `timeout`, or the event was taken over by another worker. */
  signal: AbortSignal
}

export type WorkContext = Pick<HandlerContext<never>, 'attempt' | 'signal'>

export type Handler<Event extends EventDefinition, Tx> = (
  event: EventOf<Event>,
  context: HandlerContext<Tx>,
) => Promise<unknown> | unknown

/** Long work in two steps, so that no transaction is open while it lasts. */
export interface LongHandler<Event extends EventDefinition, Tx, Result> {
  /** Outside any transaction. May run more than once for one event: after a crash, or when the commit failed. */
  work(event: EventOf<Event>, context: WorkContext): Promise<Result> | Result
  /** Inside a transaction, at most once with effect. */
  commit(event: EventOf<Event>, result: Result, context: HandlerContext<Tx>): Promise<unknown> | unknown
}

export type BatchHandler<Event extends EventDefinition, Tx> = (
  events: readonly EventOf<Event>[],
  context: HandlerContext<Tx>,
) => Promise<unknown> | unknown

export interface HandlerOptions<Event extends EventDefinition> {
  /** How many run at once, at most; never more than the consumer's own `concurrency`, which is the default. */
  concurrency?: number | undefined
  /** Before an event is dead-lettered. Default: the consumer's. */
  maxAttempts?: number | undefined
  /** From the first failed attempt until an event is dead-lettered. Default: the consumer's. */
  retryFor?: Duration | undefined
  /** The ceiling of the first pause and of all, between which it doubles; or a function of the failed attempts, from 1. */
  backoff?: BackoffOption | undefined
  /**
   * How long one call may take: `work` and `commit` each, or a batch. Then its signal is aborted, its transaction rolled back, and an
   * attempt has failed. Default: no limit.
   */
  timeout?: Duration | undefined
  /**
   * What effects are deduplicated by instead of the event's id, within this type and group: for work such as "this source,
   * this analysis, this version", which several events may ask for. At most 1,000 characters.
   */
  key?: ((event: EventOf<Event>) => string) | undefined
}

export interface BatchOptions<Event extends EventDefinition> extends HandlerOptions<Event> {
  /** How many events one call gets, at most. Default 100. */
  size?: number | undefined
}

export type BackoffOption = { min?: Duration | undefined; max?: Duration | undefined } | ((attempt: number) => Duration)

/**
 * Around every call of a handler, for tracing and tenants. For a batch `event` is the array of its events. It must call `run` and
 * return after the promise of `run` has settled; else the attempt fails. An error of `run` fails the attempt, whatever `wrap` does.
 */
export type Wrap<Tx> = <Result>(
  event: ConsumerEvent | ConsumerEvent[],
  run: () => Promise<Result>,
  context: WorkContext & Partial<HandlerContext<Tx>>,
) => Promise<Result>
