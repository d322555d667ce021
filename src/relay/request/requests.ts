import type pg from 'pg'
import { pause } from '../../base/backoff.js'
import { every } from '../../base/interval.js'
import type { Config } from '../../config/schema.js'
import type { Head } from '../../event/head.js'
import { endPostgres } from '../../postgres/client/connect.js'
import type { Lsn } from '../../postgres/client/lsn.js'
import { sqlState } from '../../postgres/client/transaction.js'
import { beginRequest, type Executor, nextRequest } from '../../postgres/state/requests.js'
import { lockLost } from '../../postgres/state/sessions.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { loadRepair } from '../../redis/streams/repair.js'
import type { Logger } from '../../telemetry/log.js'
import type { StateStore } from '../confirm/state-store.js'
import { SideConnection } from '../side-connection.js'
import { RequestRun, type RequestRunOptions } from './request-run.js'

const LOOK_EVERY_MS = 2_000
const RETRY_AFTER_MS = 10_000
/** Rights are granted by a person. */
const WITHOUT_RIGHTS_MS = 60_000
/** An idle server says how far it has sent when it is asked. */
const ASK_EVERY_MS = 250

export interface RequestsOptions
  extends Pick<
    RequestRunOptions,
    'partitions' | 'redisLimit' | 'timeline' | 'publisher' | 'readPosition' | 'requested' | 'awaitHeads'
  > {
  config: Config
  log: Logger
  stateStore: StateStore
  connectRedis(): Promise<RedisClient>
  /** A connection without a limit to how long a statement runs. */
  connectPostgres(): Promise<pg.Client>
  /** Everything that was committed before it is in its stream, or an incident. */
  appended(): Lsn
  /** Asks the server how far it has sent. */
  requestReply(): void
  /** Aborted when the session ends. */
  signal: AbortSignal
}

/**
 * Executes what `outrider republish` and `outrider audit --repair` ask for, one request after the other, while events flow. What goes
 * wrong is tried again, and ends nothing else.
 */
export class Requests {
  readonly #options: RequestsOptions
  readonly #leaving = new AbortController()
  readonly #signal: AbortSignal
  readonly #redis: SideConnection
  #awaited: Lsn = 0n
  #run: RequestRun | undefined
  #isLooking = false
  #notBefore = 0
  #said = ''

  constructor(options: RequestsOptions) {
    this.#options = options
    this.#signal = AbortSignal.any([options.signal, this.#leaving.signal])
    this.#redis = new SideConnection({
      connect: options.connectRedis,
      prepare: loadRepair,
      isHarmless: (error) => (error as Error).name === 'ReplyError',
    })
  }

  /** What must be appended before a request continues, however little WAL was written; 0: nothing. */
  get awaited(): Lsn {
    return this.#awaited
  }

  /** To be called once all heads are taken over. */
  start(): void {
    this.#signal.addEventListener('abort', () => this.#redis.close(), { once: true })
    every(LOOK_EVERY_MS, () => void this.#look(), this.#signal)
    void this.#look()
  }

  /** Nothing more is handed to the publisher. */
  stop(): void {
    this.#leaving.abort()
  }

  /** These heads are durable, and saved. */
  saved(heads: ReadonlyMap<string, Head>): void {
    this.#run?.pages.saved(heads)
  }

  async #look(): Promise<void> {
    if (this.#isLooking || this.#signal.aborted || performance.now() < this.#notBefore) return
    this.#isLooking = true
    const { stateStore } = this.#options
    try {
      const { lineage } = stateStore.own
      const id = await stateStore.inTurn((postgres) => nextRequest(postgres, lineage))
      if (id !== undefined) await this.#execute(id)
      this.#said = ''
    } catch (error) {
      this.#failed(error as Error)
    } finally {
      this.#run = undefined
      this.#awaited = 0n
      this.#isLooking = false
    }
  }

  async #execute(id: string): Promise<void> {
    const { config, stateStore } = this.#options
    const client = await this.#options.connectPostgres()
    const breakOff = () => client.connection.stream.destroy()
    this.#signal.addEventListener('abort', breakOff, { once: true })
    try {
      // A connection that was made by name may lead to another server.
      if (!(await stateStore.holdsLock(client))) throw lockLost()
      const executor: Executor = { ...stateStore.own, walsender: stateStore.walsender }
      const request = await beginRequest(client, executor, id)
      if (!request) return
      this.#run = new RequestRun({
        ...{ ...this.#options, config, client, executor, request, signal: this.#signal },
        useRedis: (work) => this.#redis.use(work),
        published: (lsn) => this.#published(lsn),
      })
      await this.#run.run()
    } finally {
      this.#signal.removeEventListener('abort', breakOff)
      await endPostgres(client)
    }
  }

  async #published(lsn: Lsn): Promise<void> {
    const { appended, requestReply } = this.#options
    this.#awaited = lsn
    while (appended() < lsn) {
      requestReply()
      await pause(ASK_EVERY_MS, this.#signal)
      this.#signal.throwIfAborted()
    }
    this.#awaited = 0n
  }

  #failed(error: Error): void {
    if (this.#signal.aborted) return
    const lacksRights = sqlState(error) === '42501'
    this.#notBefore = performance.now() + (lacksRights ? WITHOUT_RIGHTS_MS : RETRY_AFTER_MS)
    if (this.#said === error.message) return
    this.#said = error.message
    this.#options.log.warn({ err: error }, lacksRights ? LACKS_RIGHTS : 'executing a request failed, retrying')
  }
}

const LACKS_RIGHTS =
  'requests of outrider republish and outrider audit --repair are not executed: the role lacks rights; run outrider setup --grant-relay'
