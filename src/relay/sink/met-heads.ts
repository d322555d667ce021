import { type Position, ZERO_POSITION } from '../../event/position.js'
import type { StreamQueue } from './stream-queue.js'

type Chained = Pick<StreamQueue, 'head' | 'meet'>

/** The row that was read last. Its fields are valid until the next row is read. */
export interface ReadRow {
  readonly position: Position
  readonly eventId: string | null
}

/** Bytes that the id of a row takes in memory. */
const ID_BYTES = 256
/** So many ids of rows that may be a head's own are kept once the saved heads are known. */
const MAX_IDS = 1_000

/**
 * Finds the heads whose own rows are read again. A session reads all rows from the confirmed LSN on. A row at the position
 * of a head, with the event id of the head, proves that this database wrote the head, also where today's mapping routes the
 * row to another stream.
 *
 * A head may be looked at after its row was read, so the ids of rows that may be a head's own are kept: all until the
 * saved heads are known, and the last ones after that.
 */
export class MetHeads {
  readonly #mayBeHead: (position: Position) => boolean
  readonly #holdBytes: (bytes: number) => void
  #read: ReadRow = { position: ZERO_POSITION, eventId: null }
  readonly #ids = new Map<Position, string>()
  /** The position of the last row whose id was dropped. */
  #dropped: Position = ZERO_POSITION
  /** All further rows were not published before this session. */
  #readsNewRows = false
  #savedHeadsKnown = false
  /** Streams whose head lies above the start of their chain, by the head's position: its row is still to be read. */
  readonly #unmet = new Map<Position, Chained[]>()

  /**
   * `mayBeHead`: can a row at this position have been published before this session? `holdBytes`: counts bytes that the ids
   * take in memory, as a negative number when they no longer do.
   */
  constructor(mayBeHead: (position: Position) => boolean, holdBytes: (bytes: number) => void) {
    this.#mayBeHead = mayBeHead
    this.#holdBytes = holdBytes
  }

  /** A row was read, whichever stream it is for. */
  meet(row: ReadRow): void {
    this.#read = row
    if (this.#readsNewRows && this.#unmet.size === 0) return
    const { position, eventId } = row
    if (!this.#readsNewRows) this.#keepId(position, eventId ?? '')
    if (this.#unmet.size === 0) return
    for (const queue of this.#unmet.get(position) ?? []) {
      if (queue.head.position === position && queue.head.event === eventId) queue.meet()
    }
    this.#unmet.delete(position)
  }

  /** The head of the queue is known, and its chain begins at `chain`. */
  opened(queue: Chained, chain: Position): void {
    const { position, event } = queue.head
    if (this.#ids.get(position) === event || this.#isDropped(position, chain)) queue.meet()
    else if (chain < position && position > this.#read.position) {
      this.#unmet.set(position, [...(this.#unmet.get(position) ?? []), queue])
    }
  }

  /** The saved heads are known: ids do not count as bytes, and only the last ones are kept. */
  release(): void {
    this.#savedHeadsKnown = true
    this.#holdBytes(-ID_BYTES * this.#ids.size)
    this.#dropIds()
  }

  #keepId(position: Position, eventId: string): void {
    if (!this.#mayBeHead(position)) {
      this.#readsNewRows = true
      return
    }
    this.#ids.set(position, eventId)
    if (this.#savedHeadsKnown) this.#dropIds()
    else this.#holdBytes(ID_BYTES)
  }

  #dropIds(): void {
    for (const position of this.#ids.keys()) {
      if (this.#ids.size <= MAX_IDS) return
      this.#ids.delete(position)
      this.#dropped = position
    }
  }

  /**
   * The head's own row was read, and its id was dropped. It may have gone to another stream, as today's mapping has it: then
   * only the head's session says that this database wrote it, as for a head whose row is not read again. Where the row
   * waits in this queue, Redis compares the two.
   */
  #isDropped(position: Position, chain: Position): boolean {
    return chain < position && position <= this.#dropped
  }
}
