import { Registry } from 'prom-client'
import type { EventDefinition } from '../event/define.js'
import { describeIssues } from '../event/error.js'
import type { EventInput } from '../producer/row.js'
import { createLogger } from '../telemetry/log.js'
import { DeadLetter } from './delivery/retry-policy.js'
import { type Duration, durationOf } from './duration.js'
import type { BatchHandler, BatchOptions, Handler, HandlerOptions, LongHandler, Wrap } from './handler.js'
import { batchSizeOf, HandlerRegistry } from './handler-registry.js'
import { type Database, TransactionFailedError } from './inbox/database.js'
import type { DatabaseOption, TransactionOf } from './inbox/database-adapter.js'
import { databaseOf } from './inbox/database-of.js'
import { type ExecutionContext, execute } from './inbox/execute.js'
import { LazyAbort } from './lazy-abort.js'
import { type ConsumerLogger, type ConsumerOptions, type ConsumerSettings, settingsOf } from './options.js'
import { connectorOf } from './redis/connector.js'
import { Runtime, type RuntimeParts } from './runtime.js'
import type { Stats } from './stats.js'
import { definedTestDelivery, type TestDelivery, testDeliveryOf } from './test-delivery.js'

/**
 * Makes a worker of a consumer group. Nothing is connected before `start` or `run`.
 *
 *     const consumer = createConsumer({ redis: 'redis://localhost:6379', db: pool, group: 'billing' })
 *       .on(OrderPlaced, async (event, { tx }) => {
 *         await tx.query('insert into invoice (order_id, total) values ($1, $2)', [event.subject, event.data.total])
 *       })
 *     await consumer.run({ signal })
 *
 * Throws a TypeError that names the option which is wrong.
 */
export function createConsumer<Db extends DatabaseOption>(options: ConsumerOptions<Db>): Consumer<TransactionOf<Db>> {
  return new Consumer<TransactionOf<Db>>(options as ConsumerOptions)
}

/** The result of `deliver`. `duplicate`: this group has processed the event before. `skipped`: its type is in `skip`. */
export type Delivered = 'done' | 'duplicate' | 'skipped'

type Definitions<Event extends EventDefinition> = Event | readonly Event[]

/** A worker of a consumer group. Several may run in one process. */
export class Consumer<Tx> {
  /** Holds the metrics: the option `registry`, or a registry of this consumer's own. */
  readonly registry: Registry
  readonly #options: ConsumerOptions
  readonly #settings: ConsumerSettings
  readonly #connect: RuntimeParts['connect']
  readonly #database: Database
  readonly #routes: HandlerRegistry
  readonly #execution: ExecutionContext
  #run: Runtime | undefined

  constructor(options: ConsumerOptions) {
    this.#options = options
    this.#database = databaseOf(options?.db)
    this.#settings = settingsOf(options, this.#database.maxTransactions)
    this.#connect = connectorOf(options.redis, this.#settings.name)
    this.registry = options.registry ?? new Registry()
    this.#routes = new HandlerRegistry(this.#settings, this.#settings.skip)
    const wrap = options.wrap as Wrap<unknown> | undefined
    this.#execution = { database: this.#database, group: this.#settings.group, wrap }
  }

  /** The name of this consumer in Redis: the option `name`, or its default. */
  get name(): string {
    return this.#settings.name
  }

  /**
   * Adds a handler for the events of one definition, or of several. Everything that the handler writes through `tx` is
   * committed in one transaction with the inbox row of the event, so it takes effect once. If the handler throws, the
   * consumer retries the event.
   */
  on<Event extends EventDefinition, Result>(
    event: Definitions<Event>,
    handler: Handler<Event, Tx> | LongHandler<Event, Tx, Result>,
    options: HandlerOptions<Event> = {},
  ): this {
    if (typeof handler === 'function') {
      return this.#add(event, { kind: 'one', handle: handler as Handler<EventDefinition, unknown> }, options)
    }
    if (typeof handler?.work === 'function' && typeof handler.commit === 'function') {
      return this.#add(
        event,
        { kind: 'long', steps: handler as LongHandler<EventDefinition, unknown, unknown> },
        options,
      )
    }
    throw new TypeError('Expected a handler as a function, or as { work, commit }, found something else.')
  }

  /**
   * Adds a handler that processes many events in one transaction: all that are available, up to `size`. If a call fails,
   * the consumer calls the handler again for each event alone, so that only the event that fails is retried.
   */
  onBatch<Event extends EventDefinition>(
    event: Definitions<Event>,
    handler: BatchHandler<Event, Tx>,
    options: BatchOptions<Event> = {},
  ): this {
    if (typeof handler !== 'function') {
      throw new TypeError('Expected the handler of batches as a function, found something else.')
    }
    const handle = handler as BatchHandler<EventDefinition, unknown>
    return this.#add(event, { kind: 'batch', handle, size: batchSizeOf(options.size) }, options)
  }

  #add<Event extends EventDefinition>(
    event: Definitions<Event>,
    work: Parameters<HandlerRegistry['add']>[1],
    options: BatchOptions<Event>,
  ): this {
    if (this.#run)
      throw new Error('Expected handlers to be added before the consumer starts, found that it has started.')
    this.#routes.add(event, work, options)
    return this
  }

  /**
   * Starts, runs until `signal` is aborted, then stops as `stop` does. Rejects if `start` rejects. It installs no
   * handlers for process signals. Install your own: `process.once('SIGTERM', () => controller.abort())`.
   */
  async run({ signal, timeout }: { signal?: AbortSignal; timeout?: Duration } = {}): Promise<void> {
    if (signal?.aborted) return
    const asked = new Promise<void>((resolve) => signal?.addEventListener('abort', () => resolve(), { once: true }))
    const started = this.start()
    // Asked while it starts, it is not waited for: it may hang on a server that does not answer.
    started.catch(() => {})
    await Promise.race([asked, started])
    if (!signal?.aborted) await Promise.race([asked, this.#run?.ended])
    await this.stop(timeout === undefined ? {} : { timeout })
  }

  /**
   * Connects and starts to process events. Resolves when the group exists and the worker reads its streams. Rejects if
   * Redis or the database cannot be reached or is not set up; the message says what to do. After a successful start the
   * consumer reconnects by itself.
   */
  async start(): Promise<void> {
    if (this.#run)
      throw new Error('Expected a consumer that was not started before, found one that was. Make a new one.')
    if (this.#routes.all.length === 0) throw new Error('Expected at least one handler, found none. Add one with on().')
    const log = this.#options.logger ?? createLogger({ level: 'info' })
    const parts: RuntimeParts = {
      connect: this.#connect,
      settings: this.#settings,
      routes: this.#routes,
      execution: this.#execution,
      registry: this.registry,
      log: loggerOf(log, this.#settings),
    }
    const run = new Runtime(parts)
    this.#run = run
    await run.start().catch((error) => {
      this.#run = undefined
      throw error
    })
  }

  /**
   * Stops reading, releases the entries that do not run, so that other workers can take them, and waits for running
   * handlers, at most `timeout` (default: `stopTimeout`, 30s). Then it aborts the signal of the handlers that still run.
   * Rejects only if `timeout` is no duration.
   */
  async stop({ timeout }: { timeout?: Duration } = {}): Promise<void> {
    await this.#run?.stop(timeout === undefined ? this.#settings.stopTimeout : durationOf('timeout', timeout, 0))
  }

  /**
   * Starts no handler and reads no entry until `resume`. Running handlers continue, and the worker keeps the entries that
   * it holds.
   */
  pause(): void {
    this.#started().pause()
  }

  resume(): void {
    this.#started().resume()
  }

  /** The state of this worker and of the streams of its group. Requests the latter from Redis. */
  stats(): Promise<Stats> {
    return this.#started().stats()
  }

  /**
   * For tests: processes one event in a real transaction, without a connection to Redis, and commits it. Resolves to
   * `'done'`, to `'duplicate'` if this group has processed the event before, or to `'skipped'`. Rejects with the error of
   * the handler, or with a DeadLetter if no handler takes the event or its payload does not fit the schema.
   *
   *     await consumer.deliver(OrderPlaced, { subject: 'order-42', data: { total: 99 } })
   *     await consumer.deliver({ type: 'order.placed', subject: 'order-42', data: { total: 99 } })
   */
  async deliver<Event extends EventDefinition>(event: Event, input: EventInput<Event>): Promise<Delivered>
  // A definition alone is no event, though it has a type.
  async deliver(event: TestDelivery & { maxBytes?: never }): Promise<Delivered>
  async deliver(given: EventDefinition | TestDelivery, input?: EventInput<EventDefinition>): Promise<Delivered> {
    const event = testDeliveryOf(
      input === undefined ? (given as TestDelivery) : definedTestDelivery(given as EventDefinition, input),
      (type) => this.#routes.streamsOf(type),
    )
    const found = this.#routes.find(event)
    if ('skip' in found) return 'skipped'
    if ('unknown' in found) throw new DeadLetter(found.unknown, { cause: new Error(found.error) })
    if ('malformed' in found) throw new DeadLetter('malformed')
    const valid = await found.definition.data['~standard'].validate(event.data)
    if (valid.issues) throw new DeadLetter('invalid_data', { cause: new Error(describeIssues(valid.issues)) })
    const events = [{ ...event, data: valid.value }]
    try {
      const done = await execute(this.#execution, {
        route: found.route,
        events,
        attempt: 1,
        stop: new LazyAbort(),
        isSettled: async () => false,
        lease: undefined,
      })
      return done.has(0) ? 'done' : 'duplicate'
    } catch (error) {
      throw error instanceof TransactionFailedError ? error.cause : error
    }
  }

  #started(): Runtime {
    if (this.#run) return this.#run
    throw new Error('Expected a consumer that was started, found one that was not. Call start() or run() first.')
  }
}

/** Every line says which group it is of. A logger that throws, as on an error that cannot be read, changes nothing else. */
function loggerOf(log: ConsumerLogger, { group, name }: ConsumerSettings): ConsumerLogger {
  const own = { group, consumer: name }
  const line = (level: keyof ConsumerLogger) => (object: object, message: string) => {
    try {
      log[level]({ ...own, ...object }, message)
    } catch {
      // There is no other place to say it.
    }
  }
  return { debug: line('debug'), info: line('info'), warn: line('warn'), error: line('error') }
}
