import type { EventDefinition } from '../../event/define.js'
import { sqlState } from '../../postgres/client/transaction.js'
import { publish } from '../../producer/publish.js'
import type { EventInput } from '../../producer/row.js'
import { withHandlerTimeout } from '../delivery/handler-timeout.js'
import type { ConsumerEvent } from '../event.js'
import type { HandlerContext, Publish, Wrap } from '../handler.js'
import type { RegisteredHandler } from '../handler-registry.js'
import type { LazyAbort } from '../lazy-abort.js'
import { type Database, type RowQuery, TransactionFailedError } from './database.js'
import { acceptance, type FencingToken, type InboxKey, isDone, ownKey } from './inbox.js'
import { TransactionHandle } from './transaction-handle.js'

/** What stays the same from call to call. */
export interface ExecutionContext {
  database: Database
  group: string
  wrap: Wrap<unknown> | undefined
}

/** Events for one transaction; more than one only where the route takes batches. */
export interface HandlerCall {
  route: RegisteredHandler
  events: readonly ConsumerEvent[]
  attempt: number
  stop: LazyAbort
  /** Asked before the commit of long work: whether another worker has ended the event meanwhile. */
  isSettled(): Promise<boolean>
  /** Of an ordered worker. */
  lease: FencingToken | undefined
}

/**
 * Does the work of a call, once: inbox rows first, then the handler, in one transaction. Resolves once that is committed, with
 * the places of the events that were done now; the others were done before, or ended by another worker. Rejects with a
 * TransactionFailedError.
 */
export async function execute(execution: ExecutionContext, call: HandlerCall): Promise<ReadonlySet<number>> {
  const { database, group } = execution
  const { route, events, lease } = call
  const { work } = route
  const keys = inHandler(() => events.map((event) => inboxKeyOf(route, event)))
  let result: unknown
  if (work.kind === 'long') {
    const event = events[0] as ConsumerEvent
    if (await wasDone(execution, keys[0] as InboxKey)) return NONE
    const context = { attempt: call.attempt, signal: call.stop.signal }
    const run = () => wrapped(execution, event, async () => work.steps.work(event, context), context)
    result = await inHandlerAsync(() => withHandlerTimeout(route.timeout, call.stop, run))
    if (await call.isSettled()) return NONE
  }
  const done = await database.transaction({
    ...acceptance(group, keys, lease),
    readCommitted: lease !== undefined,
    work: async (tx, places, query) => {
      const handle = new TransactionHandle(tx, query)
      const fresh = events.filter((_, place) => places.has(place))
      try {
        await withHandlerTimeout(route.timeout, call.stop, () => handled(execution, call, fresh, result, handle))
      } finally {
        handle.close()
      }
    },
  })
  return done ?? NONE
}

/** Calls the handler for what was not done before; `result`: that of `work`. */
function handled(
  execution: ExecutionContext,
  call: HandlerCall,
  fresh: ConsumerEvent[],
  result: unknown,
  { tx, query }: TransactionHandle,
): Promise<unknown> {
  const { work } = call.route
  const context = contextOf(tx, query, call, work.kind === 'batch' ? undefined : fresh[0])
  const [event] = fresh as [ConsumerEvent]
  if (work.kind === 'batch') return wrapped(execution, fresh, async () => work.handle(fresh, context), context)
  if (work.kind === 'one') return wrapped(execution, event, async () => work.handle(event, context), context)
  return wrapped(execution, event, async () => work.steps.commit(event, result, context), context)
}

const NONE: ReadonlySet<number> = new Set()

const MOST_KEY = 1_000

/** Of source and id together, in bytes: an entry of the inbox's index holds 2,704, with the group. */
const MOST_ROW = 2_500

/** Of one byte each, as in most ids: no need to look at the bytes. */
const PLAIN = /^[\x20-\x7e]*$/

/** What an event is deduplicated by. Throws where Postgres would refuse it as a row of the inbox: that is no outage. */
export function inboxKeyOf(route: RegisteredHandler, event: ConsumerEvent): InboxKey {
  const key = plainKeyOf(route, event)
  const text = key.source + key.id
  if (text.length <= MOST_ROW && PLAIN.test(text)) return key
  const bytes = Buffer.from(text)
  if (bytes.length <= MOST_ROW && !text.includes('\0') && bytes.toString() === text) return key
  throw new TypeError(
    `Expected ${route.key ? 'key' : 'id and source'} of ${event.type} as well-formed text without NUL, of ${MOST_ROW} bytes at most, found something else.`,
  )
}

function plainKeyOf(route: RegisteredHandler, event: ConsumerEvent): InboxKey {
  if (!route.key) return { source: event.source, id: event.id }
  const key = route.key(event)
  if (typeof key === 'string' && key !== '' && key.length <= MOST_KEY) return ownKey(event.type, key)
  throw new TypeError(
    `Expected key of the handler of ${event.type} to return a text of 1 to ${MOST_KEY} characters, found ` +
      `${typeof key === 'string' ? `one of ${key.length}` : typeof key}.`,
  )
}

function wrapped<T>(
  { wrap }: ExecutionContext,
  event: ConsumerEvent | ConsumerEvent[],
  run: () => Promise<T>,
  context: Parameters<Wrap<unknown>>[2],
): Promise<T> {
  return wrap ? runWrapped(wrap, event, run, context) : run()
}

/**
 * A `wrap` that does not wait for `run` would have the transaction committed without the effects of the handler; one that calls it
 * twice, with both.
 */
async function runWrapped<T>(
  wrap: Wrap<unknown>,
  event: ConsumerEvent | ConsumerEvent[],
  run: () => Promise<T>,
  context: Parameters<Wrap<unknown>>[2],
): Promise<T> {
  let call: Promise<T> | undefined
  let isRunning = false
  let isRepeated = false
  const settled = () => {
    isRunning = false
  }
  const once = (): Promise<T> => {
    if (!call) {
      isRunning = true
      call = run()
      call.then(settled, settled)
      return call
    }
    isRepeated = true
    const refused = Promise.reject(new Error(REPEATED))
    // Unhandled where wrap does not wait for it.
    refused.catch(() => {})
    return refused
  }
  await wrap(event, once, context)
  if (isRepeated) throw new Error(REPEATED)
  if (call && !isRunning) return call
  throw new Error(
    `Expected wrap to return after what run() returns has settled, found that ${call ? 'it still runs' : 'run was not called'}. ` +
      'Return or await it: wrap: (event, run) => run().',
  )
}

const REPEATED =
  'Expected wrap to call run once, found a second call: what both write would be committed together. An error of run fails the ' +
  'attempt, and the consumer tries the event again.'

function contextOf(
  tx: unknown,
  query: RowQuery,
  call: HandlerCall,
  cause: ConsumerEvent | undefined,
): HandlerContext<unknown> {
  return {
    tx,
    attempt: call.attempt,
    publish: publisher(query, cause),
    // Made when it is asked for: most handlers do not use it, and each is an event target.
    get signal() {
      return call.stop.signal
    },
  }
}

/** Publishes with the ids of what caused it; of a batch no one can tell which event did, so its handler says it itself. */
function publisher(query: RowQuery, cause: ConsumerEvent | undefined): Publish {
  const inherit = (input: EventInput<EventDefinition>): EventInput<EventDefinition> =>
    cause ? { correlationId: cause.correlationId ?? cause.id, causationId: cause.id, ...input } : input
  const run = async (event: EventDefinition, input: EventInput<EventDefinition> | EventInput<EventDefinition>[]) => {
    try {
      if (Array.isArray(input)) return await publish({ query }, event, input.map(inherit))
      return await publish({ query }, event, inherit(input))
    } catch (error) {
      throw explain(error)
    }
  }
  return run as Publish
}

function explain(error: unknown): unknown {
  switch (sqlState(error)) {
    case '3F000':
    case '42P01':
      return new Error(
        'Expected the outbox in the database of this transaction, found none. A handler publishes in its own transaction, ' +
          'so the outbox must be in the workers’ database: run `outrider setup` there, without --only inbox.',
        { cause: error },
      )
    case '42501':
      return new Error(
        'Expected the worker’s role to be allowed to publish, found that it is not: grant outrider_writer to it.',
        { cause: error },
      )
    default:
      return error
  }
}

/** Whether the inbox says that the group has done it before. Rejects with a TransactionFailedError. */
export const wasDone = ({ database, group }: ExecutionContext, key: InboxKey): Promise<boolean> =>
  opening(isDone(database, group, key))

/** What the library itself asks. */
async function opening<T>(asked: Promise<T>): Promise<T> {
  try {
    return await asked
  } catch (error) {
    throw new TransactionFailedError(error, 'opening', 'aborted')
  }
}

function inHandler<T>(run: () => T): T {
  try {
    return run()
  } catch (error) {
    throw new TransactionFailedError(error, 'handler', 'open')
  }
}

async function inHandlerAsync<T>(run: () => Promise<T>): Promise<T> {
  try {
    return await run()
  } catch (error) {
    throw new TransactionFailedError(error, 'handler', 'open')
  }
}
