import { Registry } from 'prom-client'
import type { EventDefinition } from '../event/define.js'
import { describeIssues } from '../event/error.js'
import type { EventInput } from '../outbox/row.js'
import { createLogger } from '../telemetry/log.js'
import { type Database, type DatabaseOption, databaseOf, TransactionFailure, type TransactionOf } from './database.js'
import { type Delivery, definedDelivery, deliveryOf } from './delivery.js'
import { type Duration, durationOf } from './duration.js'
import type { BatchHandler, BatchOptions, Handler, HandlerOptions, LongHandler, Wrap } from './handler.js'
import { type ConsumerLogger, type ConsumerOptions, type Settings, settingsOf } from './options.js'
import { perform, type Setting } from './perform.js'
import { connectorOf } from './redis.js'
import { DeadLetter } from './retry.js'
import { Routes, sizeOf } from './routes.js'
import { Run, type RunParts, type Stats } from './run.js'
import { Stop } from './stop.js'

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

/** What became of an event; a duplicate is one that this group has done before. */
export type Delivered = 'done' | 'duplicate' | 'skipped'

type Definitions<Event extends EventDefinition> = Event | readonly Event[]

/** A worker: one process' share in the work of a group. */
export class Consumer<Tx> {
  /** Where its metrics are. */
  readonly registry: Registry
  readonly #options: ConsumerOptions
  readonly #settings: Settings
  readonly #connect: RunParts['connect']
  readonly #database: Database
  readonly #routes: Routes
  readonly #setting: Setting
  #run: Run | undefined

  constructor(options: ConsumerOptions) {
    this.#options = options
    this.#database = databaseOf(options?.db)
    this.#settings = settingsOf(options, this.#database.maxTransactions)
    this.#connect = connectorOf(options.redis, this.#settings.name)
    this.registry = options.registry ?? new Registry()
    this.#routes = new Routes(this.#settings, this.#settings.skip)
    const wrap = options.wrap as Wrap<unknown> | undefined
    this.#setting = { database: this.#database, group: this.#settings.group, wrap }
  }

  /** The name in Redis. */
  get name(): string {
    return this.#settings.name
  }

  /**
   * Says what is to be done with events of this definition, or of these. What the handler does with `tx` is committed together
   * with the record that the event is done, so it takes effect once. A handler that throws is tried again.
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
   * The same for many events in one transaction: as many as are there, up to `size`. A call that fails is made again for each
   * of its events alone, so that only the one to blame is held up.
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
    return this.#add(event, { kind: 'batch', handle, size: sizeOf(options.size) }, options)
  }

  #add<Event extends EventDefinition>(
    event: Definitions<Event>,
    work: Parameters<Routes['add']>[1],
    options: BatchOptions<Event>,
  ): this {
    if (this.#run)
      throw new Error('Expected handlers to be added before the consumer starts, found that it has started.')
    this.#routes.add(event, work, options)
    return this
  }

  /**
   * Runs until the signal, then stops in an orderly way. Rejects where `start` does. Traps no signals of the process: pass on
   * those that you want, as in `process.once('SIGTERM', () => controller.abort())`.
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
   * Connects and begins to work. Resolves once the group is there and events are read. Rejects where Redis or the database
   * cannot be reached, or is not set up: the message says what to do. Once started, it goes on through whatever happens.
   */
  async start(): Promise<void> {
    if (this.#run)
      throw new Error('Expected a consumer that was not started before, found one that was. Make a new one.')
    if (this.#routes.all.length === 0) throw new Error('Expected at least one handler, found none. Add one with on().')
    const log = this.#options.logger ?? createLogger({ level: 'info' })
    const parts: RunParts = {
      connect: this.#connect,
      settings: this.#settings,
      routes: this.#routes,
      setting: this.#setting,
      registry: this.registry,
      log: loggerOf(log, this.#settings),
    }
    const run = new Run(parts)
    this.#run = run
    await run.start().catch((error) => {
      this.#run = undefined
      throw error
    })
  }

  /**
   * Reads nothing more, releases at once what does not run, for other workers to take, and waits for running handlers up to
   * `timeout` (default: `stopTimeout`, 30s). Then it aborts the signal of those that still run. Never rejects.
   */
  async stop({ timeout }: { timeout?: Duration } = {}): Promise<void> {
    await this.#run?.stop(timeout === undefined ? this.#settings.stopTimeout : durationOf('timeout', timeout, 0))
  }

  /** Begins nothing and reads nothing until `resume`; what runs goes on, and nothing is taken from this worker. */
  pause(): void {
    this.#started().pause()
  }

  resume(): void {
    this.#started().resume()
  }

  /** How it stands, for a person. Asks Redis. */
  stats(): Promise<Stats> {
    return this.#started().stats()
  }

  /**
   * Does one event without Redis, in a real transaction: for tests. `'done'`, or `'duplicate'` where this group has done the
   * event before, or `'skipped'`. Rejects with what the handler throws, and with a DeadLetter where nobody takes the event.
   *
   *     await consumer.deliver(OrderPlaced, { subject: 'order-42', data: { total: 99 } })
   *     await consumer.deliver({ type: 'order.placed', subject: 'order-42', data: { total: 99 } })
   */
  async deliver<Event extends EventDefinition>(event: Event, input: EventInput<Event>): Promise<Delivered>
  // A definition alone is no event, though it has a type.
  async deliver(event: Delivery & { maxBytes?: never }): Promise<Delivered>
  async deliver(given: EventDefinition | Delivery, input?: EventInput<EventDefinition>): Promise<Delivered> {
    const event = deliveryOf(
      input === undefined ? (given as Delivery) : definedDelivery(given as EventDefinition, input),
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
      const done = await perform(this.#setting, {
        route: found.route,
        events,
        attempt: 1,
        stop: new Stop(),
        isSettled: async () => false,
        lease: undefined,
      })
      return done.has(0) ? 'done' : 'duplicate'
    } catch (error) {
      throw error instanceof TransactionFailure ? error.cause : error
    }
  }

  #started(): Run {
    if (this.#run) return this.#run
    throw new Error('Expected a consumer that was started, found one that was not. Call start() or run() first.')
  }
}

/** Every line says which group it is of. A logger that throws, as on an error that cannot be read, changes nothing else. */
function loggerOf(log: ConsumerLogger, { group, name }: Settings): ConsumerLogger {
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
