import type { Socket } from 'node:net'

type DataListener = (chunk: Buffer) => void

/** The first bytes of ReadyForQuery, which ends every answer; one byte follows, the state of the transaction. */
const READY = Buffer.from([0x5a, 0, 0, 0, 5])
const READY_BYTES = READY.length + 1

/**
 * The parser that `pg` has installed on a socket. It can be taken off between two messages: it may hold the beginning of
 * one (a notice, a changed setting), and does not say so, but a ReadyForQuery at the end of what came leaves nothing over.
 */
export class PgParser {
  readonly #stream: Socket
  readonly #listeners: DataListener[]
  readonly #watch: DataListener
  #tail: Buffer = Buffer.alloc(0)

  constructor(stream: Socket) {
    this.#stream = stream
    this.#listeners = stream.listeners('data') as DataListener[]
    this.#watch = (chunk) => {
      this.#tail = Buffer.concat([this.#tail, chunk.subarray(-READY_BYTES)]).subarray(-READY_BYTES)
    }
    stream.on('data', this.#watch)
  }

  /** The last message that came since it is watched was a whole ReadyForQuery. */
  get isIdle(): boolean {
    return this.#tail.length === READY_BYTES && this.#tail.subarray(0, READY.length).equals(READY)
  }

  /** What the socket brings goes to `listener` from here on. */
  replace(listener: DataListener): void {
    if (!this.isIdle) throw new Error('Expected the parser of pg between two messages.')
    this.#stream.on('data', listener)
    for (const each of [...this.#listeners, this.#watch]) this.#stream.off('data', each)
  }

  /** Hands it a message, also when it was taken off. */
  parse(message: Buffer): void {
    for (const listener of this.#listeners) listener(message)
  }
}
