import type { EventDefinition } from '../event/define.js'
import { type Backoff, exponential, type RetryPolicy } from './delivery/retry-policy.js'
import { countOf, durationOf } from './duration.js'
import { type ConsumerEvent, streamOf } from './event.js'
import type { BackoffOption, BatchHandler, BatchOptions, Handler, HandlerOptions, LongHandler } from './handler.js'

// biome-ignore lint/suspicious/noExplicitAny: events of many definitions; `on` has checked that they fit their handler.
type Any = any

/** What does the work of some kinds of events. */
export type Work =
  | { kind: 'one'; handle: Handler<Any, unknown> }
  | { kind: 'long'; steps: LongHandler<Any, unknown, unknown> }
  | { kind: 'batch'; handle: BatchHandler<Any, unknown>; size: number }

/** A handler with its options. */
export interface RegisteredHandler {
  work: Work
  /** Of its events. */
  types: readonly string[]
  concurrency: number
  policy: RetryPolicy
  key: ((event: ConsumerEvent) => string) | undefined
  /** Of a call, in milliseconds. */
  timeout?: number | undefined
}

/** What is to be done with an event. */
export type HandlerMatch =
  | { route: RegisteredHandler; definition: EventDefinition }
  /** No event at all. */
  | { malformed: string }
  /** Named in `skip`: acknowledged without being done. */
  | { skip: true }
  /** No one handles it; `newer`: its version is above all that are handled, so that a newer worker may come for it. */
  | { unknown: 'unknown_type' | 'unknown_version'; newer: boolean; error: string }

export interface RouteDefaults {
  concurrency: number
  maxAttempts: number
  retryFor: number
  backoff: Backoff
}

const MOST_BATCH = 10_000

/** Of entries that no handler takes: they only pass through the schedule, in their turn. */
export const NO_HANDLER: RegisteredHandler = {
  work: { kind: 'one', handle: () => {} },
  types: [],
  concurrency: Number.POSITIVE_INFINITY,
  policy: { maxAttempts: 1, retryFor: 0, backoff: () => 0 },
  key: undefined,
}

/** Which handler takes which event: by stream, type and version. */
export class HandlerRegistry {
  readonly #defaults: RouteDefaults
  /** Types, and beginnings of types that end with `*`. */
  readonly #skip: ReadonlySet<string>
  readonly #skipPrefixes: readonly string[]
  /** By stream and type: the versions. */
  readonly #kinds = new Map<string, Map<number, { route: RegisteredHandler; definition: EventDefinition }>>()
  readonly all: RegisteredHandler[] = []
  /** By the key of a stream: see `of` and `placesOf`. */
  readonly #ofKey = new Map<
    string,
    { routes: readonly RegisteredHandler[]; places: Readonly<Record<string, number>> }
  >()

  constructor(defaults: RouteDefaults, skip: ReadonlySet<string>) {
    this.#defaults = defaults
    this.#skip = skip
    this.#skipPrefixes = [...skip].filter((type) => type.endsWith('*')).map((type) => type.slice(0, -1))
  }

  /** The streams of all events that are handled. */
  get streams(): string[] {
    return [...new Set([...this.#kinds.keys()].map((kind) => kind.slice(0, kind.indexOf(' '))))].sort()
  }

  /** The handlers that may take events of the stream with this key. */
  of(key: string): readonly RegisteredHandler[] {
    return this.#at(key).routes
  }

  /** By version and type, as `1 thing.happened`: the place in `of` of the handler that takes such events of the stream with this key. */
  placesOf(key: string): Readonly<Record<string, number>> {
    return this.#at(key).places
  }

  #at(key: string): { routes: readonly RegisteredHandler[]; places: Readonly<Record<string, number>> } {
    const known = this.#ofKey.get(key)
    if (known) return known
    const stream = streamOf(key)
    const routes: RegisteredHandler[] = []
    const places: Record<string, number> = {}
    for (const [kind, versions] of this.#kinds) {
      if (!kind.startsWith(`${stream} `)) continue
      for (const [version, { route }] of versions) {
        if (!routes.includes(route)) routes.push(route)
        places[`${version} ${kind.slice(stream.length + 1)}`] = routes.indexOf(route)
      }
    }
    const found = { routes, places }
    this.#ofKey.set(key, found)
    return found
  }

  /** Those from which a type is handled. */
  streamsOf(type: string): string[] {
    const kinds = [...this.#kinds.keys()].filter((kind) => kind.slice(kind.indexOf(' ') + 1) === type)
    return kinds.map((kind) => kind.slice(0, kind.indexOf(' ')))
  }

  add(event: EventDefinition | readonly EventDefinition[], work: Work, options: BatchOptions<Any>): void {
    const definitions: readonly EventDefinition[] = Array.isArray(event) ? event : [event]
    if (definitions.length === 0) throw new TypeError('Expected at least one event definition to handle, found none.')
    const types = [...new Set(definitions.map((definition) => definition?.type))]
    const route = { work, types, ...this.#settings(definitions, options) }
    for (const definition of definitions) {
      const { stream, type, version } = definition ?? {}
      if (typeof stream !== 'string' || typeof definition.data?.['~standard']?.validate !== 'function') {
        throw new TypeError('Expected an event as defineEvent makes it, found something else.')
      }
      const kind = `${stream} ${type}`
      const versions =
        this.#kinds.get(kind) ?? new Map<number, { route: RegisteredHandler; definition: EventDefinition }>()
      if (versions.has(version)) {
        throw new TypeError(
          `Expected one handler for ${type}, version ${version}, of the stream ${stream}, found two. A second kind of effect ` +
            'is a consumer of its own, with a group of its own: each group does an event once.',
        )
      }
      if (this.#skip.has(type)) throw new TypeError(`Expected ${type} to be handled or named in skip, found both.`)
      versions.set(version, { route, definition })
      this.#kinds.set(kind, versions)
    }
    this.all.push(route)
  }

  find(event: ConsumerEvent): HandlerMatch {
    const versions = this.#kinds.get(`${streamOf(event.stream)} ${event.type}`)
    const found = versions?.get(event.version)
    if (found) return found
    if (!versions) {
      if (this.#skips(event.type)) return { skip: true }
      const error = `No handler of this group takes the type ${event.type}. Add one, or name it in skip.`
      return { unknown: 'unknown_type', newer: false, error }
    }
    const known = [...versions.keys()].sort((a, b) => a - b)
    return {
      unknown: 'unknown_version',
      newer: event.version > (known.at(-1) as number),
      error: `Expected version ${known.join(' or ')} of ${event.type}, found version ${event.version}.`,
    }
  }

  #skips(type: string): boolean {
    return this.#skip.has(type) || this.#skipPrefixes.some((prefix) => type.startsWith(prefix))
  }

  #settings(
    definitions: readonly EventDefinition[],
    options: BatchOptions<Any>,
  ): Omit<RegisteredHandler, 'work' | 'types'> {
    const { concurrency, maxAttempts, retryFor, backoff } = this.#defaults
    const of = (option: string) => `${option} of the handler of ${definitions[0]?.type}`
    if (!['function', 'undefined'].includes(typeof options.key)) {
      throw new TypeError(`Expected ${of('key')} as a function of the event, found ${JSON.stringify(options.key)}.`)
    }
    return {
      concurrency:
        options.concurrency === undefined
          ? concurrency
          : countOf(of('concurrency'), options.concurrency, 1, concurrency),
      policy: {
        maxAttempts:
          options.maxAttempts === undefined ? maxAttempts : countOf(of('maxAttempts'), options.maxAttempts, 1, 1_000),
        retryFor: options.retryFor === undefined ? retryFor : durationOf(of('retryFor'), options.retryFor, 0),
        backoff: options.backoff === undefined ? backoff : backoffOf(of('backoff'), options.backoff),
      },
      key: (options as HandlerOptions<Any>).key,
      timeout: options.timeout === undefined ? undefined : durationOf(of('timeout'), options.timeout, 1, 2 ** 31 - 1),
    }
  }
}

/** How many events a call of a batch handler gets, at most. */
export const batchSizeOf = (size: number | undefined): number =>
  size === undefined ? 100 : countOf('size of a batch', size, 1, MOST_BATCH)

const FIRST_PAUSE = 1_000
const LONGEST_PAUSE = 3_600_000

export function backoffOf(name: string, option: BackoffOption | undefined): Backoff {
  if (typeof option === 'function') return (attempt) => durationOf(`what ${name} returns`, option(attempt), 0)
  if (option !== undefined && (typeof option !== 'object' || option === null)) {
    throw new TypeError(`Expected ${name} as { min, max } or a function, found ${JSON.stringify(option)}.`)
  }
  const min = option?.min === undefined ? FIRST_PAUSE : durationOf(`${name}.min`, option.min)
  const max = option?.max === undefined ? Math.max(LONGEST_PAUSE, min) : durationOf(`${name}.max`, option.max)
  if (max >= min) return exponential(min, max)
  throw new TypeError(`Expected ${name}.max at or above ${name}.min (${min} ms), found ${max} ms.`)
}
