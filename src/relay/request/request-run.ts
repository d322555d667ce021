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
  type RunningRequest,
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
import { AppendedPages } from './appended-pages.js'
import { RequestRefusedError, RequestStreams } from './request-streams.js'
import { REQUESTED, type RequestedEvents } from './requested-events.js'
import { type RequestedRow, RequestedRows } from './requested-rows.js'

/** Pages that are appended and not durable yet: at level `memory` that takes five seconds. */
const MAX_PAGES = 100
const LOG_EVERY_MS = 10_000

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
  #prefix = ''
  #index = 0
  /** Rows whose turn has come, and that were there. */
  #met = 0
  #appended = 0
  #rejected = 0

  constructor(options: RequestRunOptions) {
    const { client, config, executor, partitions, redisLimit, request, stateStore } = options
    this.#options = options
    const { source } = stateStore.lineage
    this.#rows = new RequestedRows(client, executor, request)
    this.#streams = new RequestStreams({ ...options, source })
    this.#appender = new RowAppender({ config, source, partitions, redisLimit, transaction: REQUESTED })
    this.#rejected = request.rejected
  }

  /** Rejects when the session ends, and where it has to be tried again. */
  async run(): Promise<void> {
    const { client, executor, log, request } = this.#options
    const ended = new AbortController()
    const until = AbortSignal.any([this.#options.signal, ended.signal])
    every(LOG_EVERY_MS, () => log.info(this.#progress, 'request continues'), until)
    try {
      const gone = await this.#execute()
      if (gone === undefined) {
        log.info(this.#progress, 'request cancelled')
        return
      }
      await forgetPresent(client, executor)
      await endRequest(client, executor, request.id, { state: 'done', message: null, gone })
      log.info({ ...this.#progress, gone }, 'request done')
    } catch (error) {
      if (!(error instanceof RequestRefusedError)) throw error
      await this.#saveAll()
      await endRequest(client, executor, request.id, { state: 'refused', message: error.message, gone: request.gone })
      log.warn({ ...this.#progress, message: error.message }, 'request refused')
    } finally {
      ended.abort()
    }
  }

  get #progress() {
    const { id, kind, found } = this.#options.request
    return { request: id, kind, found, appended: this.#appended, rejected: this.#rejected }
  }

  /** Resolves with how many rows were gone; undefined: it was cancelled. */
  async #execute(): Promise<number | undefined> {
    const { client, executor, log, request, requested, signal } = this.#options
    const { rows } = await client.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn')
    const lsn = parseLsn(rows[0]!.lsn)
    await this.#options.published(lsn)
    // An attempt of this session may have failed while its last events were on their way.
    await requested.settled(signal)
    await forgetPresent(client, executor)
    await this.#streams.load()
    const left = await this.#rows.find()
    if (request.found === null) {
      await this.#verifyRoom(left)
      await saveRequestFound(client, executor, request.id, left)
      request.found = left.rows
    }
    this.#appended = Math.max(0, request.found - left.rows - request.gone - request.rejected)
    log.info({ ...this.#progress, ...request.arguments }, 'request began')
    // What was found in the streams counts once it is durable.
    this.pages.add({ through: BigInt(request.through), rows: 0, rejected: 0 }, await this.#streams.heads())
    this.#options.awaitHeads()
    for await (const page of this.#rows.read(this.#appender.columns)) {
      await this.#append(page, lsn)
      while (this.pages.size >= MAX_PAGES) await this.pages.changed(signal)
      if (!(await this.#save())) return undefined
    }
    return (await this.#saveAll()) ? request.gone + left.rows - this.#met : undefined
  }

  async #append(page: readonly RequestedRow[], lsn: Lsn): Promise<void> {
    const { readPosition, requested, signal } = this.#options
    this.#met += page.length
    const keys = new Set<string>()
    for (const { columns } of page) {
      const key = this.#appender.take(columns)
      if (key !== undefined) keys.add(key)
    }
    await this.#streams.open(keys)
    const rejected = requested.rejected
    const moved = await readPosition.between(lsn, (read) => this.#handOn(page, read), signal)
    await requested.settled(signal)
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

  /** False: the request was cancelled. */
  async #save(): Promise<boolean> {
    const { client, executor, request } = this.#options
    const durable = this.pages.takeDurable()
    if (!durable) return true
    this.#appended += durable.rows - durable.rejected
    this.#rejected += durable.rejected
    return saveRequestProgress(client, executor, request, {
      ...{ appended: this.#appended, rejected: this.#rejected, through: durable.through, entries: durable.entries },
    })
  }

  async #saveAll(): Promise<boolean> {
    let isRunning = await this.#save()
    while (isRunning && this.pages.size > 0) {
      await this.pages.changed(this.#options.signal)
      isRunning = await this.#save()
    }
    return isRunning
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

/** What does not lie above the head is taken for a replay, and skipped. */
function requireAbove({ acknowledged, head, key, sent }: StreamQueue, position: Position): void {
  const highest = [acknowledged, head.position, sent].reduce((one, other) => (one > other ? one : other))
  if (position > highest) return
  throw new Error(`Expected a place above ${highest} for the next event of stream ${key}, found ${position}.`)
}
