import type { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import type pg from 'pg'
import { LogicalReplicationService } from 'pg-logical-replication'
import { formatLsn, type Lsn } from '../client/lsn.js'
import { FrameSplitter } from './frames.js'
import { PgParser } from './pg-parser.js'

export interface ReplicationHandlers {
  /**
   * Runs on the connection before it streams: what it takes (a lock) lives and dies with the stream. One simple statement a call.
   * Resolves with where to begin.
   */
  prepare(query: (sql: string) => Promise<Record<string, unknown>[]>): Promise<Lsn>
  /** One pgoutput message: the bytes of `data` from `start` to `end`. Read what is needed at once: they do not stay. */
  message(data: Buffer, start: number, end: number): void
  /** Everything that one read of the socket brought was handed over. */
  read?(): void
  /** The server has sent everything before `walEnd`. */
  keepalive(walEnd: Lsn, replyRequested: boolean): void
}

interface Wire extends EventEmitter {
  stream: Socket
  sendCopyFromChunk(chunk: Buffer): void
}

/** Microseconds between 1970 and 2000, where Postgres begins to count. */
const POSTGRES_EPOCH_US = 946_684_800_000_000n

/** What a CopyData message carries. https://www.postgresql.org/docs/current/protocol-replication.html */
const XLOG_DATA = 0x77
const KEEPALIVE = 0x6b
/** Bytes of XLogData before the message of the output plugin. */
const XLOG_HEADER_BYTES = 25

/**
 * One replication connection: first ordinary statements (the advisory lock, IDENTIFY_SYSTEM), then the stream.
 *
 * The libraries bring the connection, authentication, TLS and the command. Their own bookkeeping stays off, because it would
 * lose events: it confirms what was received, and one byte more than it was told. What is confirmed is sent from here,
 * exactly. Their framing makes objects, events and texts of each message: once it streams, the bytes are split here, and
 * only what is not CopyData reaches the parser of `pg`.
 */
export class Replication {
  readonly #service: LogicalReplicationService
  readonly #status = Buffer.alloc(34)
  #client: pg.Client | undefined
  #streaming = false
  #closed = false
  #paused = false
  #heardAt = performance.now()
  #progress = 0
  #walEnd: Lsn = 0n

  constructor(options: pg.ClientConfig) {
    this.#service = new LogicalReplicationService(options, { acknowledge: { auto: false, timeoutSeconds: 0 } })
    this.#status[0] = 0x72 // 'r', Standby status update
  }

  /** When bytes last came from the server, by `performance.now()`. */
  get heardAt(): number {
    return this.#heardAt
  }

  /** Rises with every message and with every keepalive that tells of more WAL. */
  get progress(): number {
    return this.#progress
  }

  /** Nothing is read for now. */
  get paused(): boolean {
    return this.#paused
  }

  /** Connects, prepares, streams. Rejects with what ended it; resolves when `close` did. */
  async run(slot: string, publication: string, handlers: ReplicationHandlers): Promise<void> {
    let failure: unknown
    const fail = (error: unknown) => {
      failure ??= error
      this.destroy()
    }
    this.#service.on('error', fail)
    const plugin = {
      options: {},
      name: 'pgoutput',
      start: async (client: pg.Client) => {
        this.#client = client
        if (this.#closed) return
        const parser = new PgParser(this.#wire.stream)
        let turn: Promise<unknown> = Promise.resolve()
        const from = await handlers.prepare((sql) => {
          const result = turn.then(() => inTime(client.query(sql)))
          turn = result.catch(() => {})
          return result.then(({ rows }) => rows)
        })
        await turn
        while (!parser.isIdle && !this.#closed) await inTime(client.query('select 1'))
        if (this.#closed) return
        const frames = new FrameSplitter({
          // An error thrown here would be thrown inside the socket's callback.
          copyData: (data, from, to) => {
            if (failure || this.#closed) return
            try {
              this.#copyData(data, from, to, handlers)
            } catch (error) {
              fail(error)
            }
          },
          other: (message) => parser.parse(message),
        })
        parser.replace((chunk) => {
          this.#heardAt = performance.now()
          try {
            frames.push(chunk)
            if (!failure && !this.#closed) handlers.read?.()
          } catch (error) {
            fail(error)
          }
        })
        this.#heardAt = performance.now()
        this.#streaming = true
        // A slot may have fallen back behind it in a crash of the server: what lies before is not sent again.
        await client.query(
          `START_REPLICATION SLOT ${client.escapeIdentifier(slot)} LOGICAL ${formatLsn(from)} ` +
            `(proto_version '1', publication_names ${client.escapeLiteral(client.escapeIdentifier(publication))})`,
        )
      },
    }
    try {
      await this.#service.subscribe(plugin as never, slot)
      if (!this.#closed && !failure) failure = new Error('Postgres ended the replication stream.')
    } catch (error) {
      failure ??= error
    } finally {
      this.#streaming = false
      this.destroy()
    }
    if (failure && !this.#closed) throw failure
  }

  #copyData(data: Buffer, start: number, end: number, handlers: ReplicationHandlers): void {
    if (data[start] === XLOG_DATA) {
      this.#progress += 1
      handlers.message(data, start + XLOG_HEADER_BYTES, end)
    } else if (data[start] === KEEPALIVE) {
      const walEnd = data.readBigUInt64BE(start + 1)
      if (walEnd > this.#walEnd) this.#progress += 1
      this.#walEnd = walEnd
      handlers.keepalive(walEnd, data[start + 17] === 1)
    }
  }

  /** Tells the server that everything before `flushed` is safe; may ask for an answer. */
  status(flushed: Lsn, replyRequested = false): void {
    if (!this.#streaming || this.#closed) return
    const status = this.#status
    status.writeBigUInt64BE(flushed, 1)
    status.writeBigUInt64BE(flushed, 9)
    status.writeBigUInt64BE(flushed, 17)
    status.writeBigInt64BE(BigInt(Date.now()) * 1000n - POSTGRES_EPOCH_US, 25)
    status[33] = replyRequested ? 1 : 0
    this.#wire.sendCopyFromChunk(status)
  }

  /** Stops reading the socket: the server waits, and holds what it has not sent. */
  pause(): void {
    if (!this.#streaming) return
    this.#paused = true
    this.#wire.stream.pause()
  }

  resume(): void {
    if (!this.#streaming || this.#closed) return
    this.#paused = false
    this.#heardAt = performance.now()
    this.#wire.stream.resume()
  }

  /** Takes leave: what was sent goes out first. */
  async close(): Promise<void> {
    this.#closed = true
    const client = this.#client
    if (!client) return this.destroy()
    const gone = setTimeout(() => this.destroy(), 1000)
    this.#wire.stream.resume()
    await client.end().catch(() => {})
    clearTimeout(gone)
  }

  /** Drops the connection at once. */
  destroy(): void {
    this.#client?.connection.stream.destroy()
  }

  get #wire(): Wire {
    return (this.#client as pg.Client).connection as unknown as Wire
  }
}

/** A statement before the stream, in milliseconds. Nothing else tells that the server has vanished meanwhile. */
const ANSWER_WITHIN = 15_000

async function inTime<T>(work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`Postgres did not answer within ${ANSWER_WITHIN} ms.`)), ANSWER_WITHIN)
  })
  return Promise.race([work, late]).finally(() => clearTimeout(timer))
}
