import type pg from 'pg'
import { every } from '../../base/interval.js'
import type { Config } from '../../config/schema.js'
import { streamOf } from '../../event/names.js'
import { type Position, placePrefix, requestedPosition } from '../../event/position.js'
import { type Lsn, parseLsn } from '../../postgres/client/lsn.js'
import {
  type Executor,
  endRequest,
  forgetPresent,
  type RequestProgress,
  type RunningRequest,
  readRequest,
  saveRequestFound,
  saveRequestProgress,
} from '../../postgres/state/requests.js'
import type { RedisClient } from '../../redis/client/connect.js'
import type { Logger } from '../../telemetry/log.js'
import type { StateStore } from '../confirm/state-store.js'
import { lacksRoom, readFreeMemory } from '../repair/guards.js'
import type { Publisher } from '../sink/publisher.js'
import type { StreamQueue } from '../sink/stream-queue.js'
import type { ReadPosition } from '../source/read-position.js'
import { RowAppender } from '../source/row-appender.js'
import { AppendedPages, type DurablePages } from './appended-pages.js'
import { RequestRefusedError, RequestStreams } from './request-streams.js'
import { REQUESTED, type RequestedEvents } from './requested-events.js'
import { type RequestedRow, RequestedRows } from './requested-rows.js'

/** Pages that are appended and not durable yet: at level `memory` that takes five seconds. */
const MAX_PAGES = 100
const LOG_EVERY_MS = 10_000
/** Whether it was cancelled is asked while it waits. */
const LOOK_EVERY_MS = 2_000

export interface RequestRunOptions {
  config: Config
  log: Logger
  stateStore: StateStore
  executor: Executor
  request: RunningRequest
  /** A connection of its own. */
  client: pg.Client
  partitions: Readonly<Record<string, number>>
  redisLimit: { bytes: number }
  timeline: number
  publisher: Publisher
  readPosition: ReadPosition
  requested: RequestedEvents
  useRedis<T>(work: (client: RedisClient) => Promise<T>): Promise<T>
  /** Until everything that was committed before the LSN is in its stream. */
  published(lsn: Lsn): Promise<void>
  /** Heads that have moved are to be saved soon. */
  awaitHeads(): void
  /** Aborted when the session ends, or is to stop. */
  signal: AbortSignal
}

/**
 * Executes a request in the session that publishes:
 *
 *     everything that its snapshot sees is in its stream
 *     streams that it has appended to before: heads are this session's; ids behind the recorded entry ── left out
 *     rows, in pages ── between two transactions of WAL, at a place ── appended, each stream's last entry
 *     heads durable and saved ── progress saved
 *
 * A session that ends leaves it where it is, and the next one continues: what was appended and is not counted is found by its id.
 */
export class RequestRun {
  readonly pages = new AppendedPages()
  readonly #options: RequestRunOptions
  readonly #rows: RequestedRows
  readonly #streams: RequestStreams
  readonly #appender: RowAppender
  readonly #cancelled = new AbortController()
  /** Aborted when the session ends or is to stop, or when the request was cancelled. */
  readonly #signal: AbortSignal
  #prefix = ''
  #index = 0
  /** The highest `seq` of a row that was found in its stream. */
  #highest = 0n
  #appended = 0
  #rejected = 0

  constructor(options: RequestRunOptions) {
    const { client, config, executor, partitions, redisLimit, request, stateStore } = options
    this.#options = options
    this.#signal = AbortSignal.any([options.signal, this.#cancelled.signal])
    const { source } = stateStore.lineage
    this.#rows = new RequestedRows(client, executor, request)
    this.#streams = new RequestStreams({ ...options, source, signal: this.#signal })
    this.#appender = new RowAppender({ config, source, partitions, redisLimit, transaction: REQUESTED })
    this.#rejected = request.rejected
  }

  /** Rejects when the session ends, and where it has to be tried again. */
  async run(): Promise<void> {
    const { client, executor, log, request } = this.#options
    const ended = new AbortController()
    const until = AbortSignal.any([this.#options.signal, ended.signal])
    every(LOG_EVERY_MS, () => log.info(this.#progress, 'request continues'), until)
    every(LOOK_EVERY_MS, () => void this.#look(), until)
    try {
      const gone = await this.#execute()
      if (gone === undefined) {
        log.info(this.#progress, 'request cancelled')
        return
      }
      await forgetPresent(client, executor)
      await endRequest(client, executor, request.id, { state: 'done', message: null, gone, ...this.#counts })
      log.info({ ...this.#progress, gone }, 'request done')
    } catch (error) {
      if (this.#cancelled.signal.aborted && !this.#options.signal.aborted) {
        log.info(this.#progress, 'request cancelled')
        return
      }
      if (!(error instanceof RequestRefusedError)) throw error
      await this.#save(0)
      await endRequest(client, executor, request.id, {
        ...{ state: 'refused', message: error.message, gone: request.gone, ...this.#counts },
      })
      log.warn({ ...this.#progress, message: error.message }, 'request refused')
    } finally {
      ended.abort()
    }
  }

  /** A run that waits for Redis, or for WAL, saves nothing: it would not see that the request was cancelled. */
  async #look(): Promise<void> {
    const { request, stateStore } = this.#options
    const { lineage } = stateStore.own
    const found = await stateStore.inTurn((postgres) => readRequest(postgres, lineage, request.id)).catch(() => {})
    if (found?.state === 'cancelled') this.#cancelled.abort()
  }

  get #progress() {
    const { id, kind, found } = this.#options.request
    return { request: id, kind, found, ...this.#counts }
  }

  get #counts() {
    return { appended: this.#appended, rejected: this.#rejected }
  }

  /** Resolves with how many rows were gone; undefined: it was cancelled. */
  async #execute(): Promise<number | undefined> {
    const { client, executor, log, request, requested } = this.#options
    const { rows } = await client.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn')
    const lsn = parseLsn(rows[0]!.lsn)
    await this.#options.published(lsn)
    // An attempt of this session may have failed while its last events were on their way.
    await requested.settled(this.#signal)
    await forgetPresent(client, executor)
    await this.#streams.load()
    const left = await this.#rows.find()
    const present = await this.#rows.findPresent()
    this.#highest = present.highest
    this.#rejected = request.rejected
    if (request.found === null) {
      await this.#verifyRoom(left)
      await saveRequestFound(client, executor, request.id, left)
      request.found = left.rows
    }
    // Rows that left the table before their turn are in neither number, nor are those that were there before the request began.
    const done = Math.min(request.found - left.rows - request.rejected, request.appended + present.rows)
    this.#appended = Math.max(0, done)
    log.info({ ...this.#progress, ...request.arguments }, 'request began')
    // What was found in the streams counts once it is durable.
    this.pages.add({ through: BigInt(request.through), rows: 0, rejected: 0 }, await this.#streams.heads())
    this.#options.awaitHeads()
    for await (const page of this.#rows.read(this.#appender.columns)) {
      await this.#append(page, lsn)
      if (!(await this.#save(MAX_PAGES))) return undefined
    }
    if (!(await this.#save(0))) return undefined
    return Math.max(0, request.found - this.#appended - this.#rejected)
  }

  async #append(page: readonly RequestedRow[], lsn: Lsn): Promise<void> {
    const { readPosition, requested } = this.#options
    const keys = new Set<string>()
    for (const { columns } of page) {
      const key = this.#appender.take(columns)
      if (key !== undefined) keys.add(key)
    }
    await this.#streams.open(keys)
    const rejected = requested.rejected
    const moved = await readPosition.between(lsn, (read) => this.#handOn(page, read), this.#signal)
    await requested.settled(this.#signal)
    const news = requested.rejected - rejected
    this.pages.add({ through: page.at(-1)!.seq, rows: page.length, rejected: news }, await this.#streams.heads(moved))
    this.#options.awaitHeads()
  }

  /** Nothing else is handed to the publisher meanwhile. The keys of the streams. */
  #handOn(page: readonly RequestedRow[], read: Lsn): Set<string> {
    const { publisher, requested } = this.#options
    this.#moveTo(read)
    const moved = new Set<string>()
    for (const { columns, seq } of page) {
      const key = this.#appender.take(columns)
      if (key === undefined || seq <= (this.#streams.through(key) as bigint)) continue
      const queue = publisher.queue(key)
      const position = requestedPosition(this.#prefix, this.#index++)
      requireAbove(queue, position)
      requested.handedOn(1)
      this.#appender.append(publisher, queue, position)
      moved.add(key)
    }
    return moved
  }

  #moveTo(read: Lsn): void {
    const prefix = placePrefix(this.#options.timeline, read)
    if (prefix === this.#prefix) return
    this.#prefix = prefix
    this.#index = 0
  }

  /** Saves what is durable, until no more than `max` pages are not. False: the request was cancelled. */
  #save(max: number): Promise<boolean> {
    return this.pages.drain(max, (durable) => this.#saveDurable(durable), this.#signal)
  }

  async #saveDurable({ rows, rejected, through, entries }: DurablePages): Promise<boolean> {
    const { client, executor, request } = this.#options
    this.#appended += rows - rejected
    this.#rejected += rejected
    // Rows that were found in the streams may come later than these, and lie before the entries: by those, a later session would not find
    // them. It finds all that was appended until then as this one did.
    if (through < this.#highest) return saveRequestProgress(client, executor, request, unchanged(request))
    return saveRequestProgress(client, executor, request, { ...this.#counts, through, entries })
  }

  async #verifyRoom(found: { rows: number; bytes: number }): Promise<void> {
    const { useRedis } = this.#options
    const free = await useRedis((client) => readFreeMemory(client, this.#targets()))
    const lacking = lacksRoom(found, free)
    if (lacking === undefined) return
    throw new RequestRefusedError(
      `${lacking} Nothing was appended. Raise maxmemory, or free memory, or ask for fewer rows, and run the command again.`,
    )
  }

  /** Streams that it may append to. */
  async *#targets(): AsyncGenerator<string> {
    const { publisher, request } = this.#options
    const { stream, to = stream } = request.arguments
    for (const [key] of publisher.reached()) if (to === undefined || streamOf(key) === to) yield key
    if (to !== undefined) yield to
  }
}

const unchanged = ({ appended, rejected, through }: RunningRequest): RequestProgress => ({
  ...{ appended, rejected, through: BigInt(through), entries: new Map() },
})

/** What does not lie above the head is taken for a replay, and skipped. */
function requireAbove({ acknowledged, head, key, sent }: StreamQueue, position: Position): void {
  const highest = [acknowledged, head.position, sent].reduce((one, other) => (one > other ? one : other))
  if (position > highest) return
  throw new Error(`Expected a place above ${highest} for the next event of stream ${key}, found ${position}.`)
}
