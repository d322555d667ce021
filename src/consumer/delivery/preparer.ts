import { bornAt, MalformedError } from '../event.js'
import { TransactionFailedError } from '../inbox/database.js'
import { type ExecutionContext, wasDone } from '../inbox/execute.js'
import type { ConsumerLogger, ConsumerSettings } from '../options.js'
import type { Breakers } from './breakers.js'
import { CrashCheck, MAX_DELIVERIES } from './crash-check.js'
import { type Call, type Delivery, isHeld } from './delivery.js'
import type { EntryMover } from './entry-mover.js'
import type { FailureHandler } from './failure-handler.js'
import type { HeldDeliveries } from './held-deliveries.js'
import { parsePayload, type Validated, validateData } from './payload-validation.js'
import type { Missing, Payloads } from './payloads.js'
import { recordedKeyOf } from './recorded-key.js'
import { logFields, type Settler } from './settler.js'

export interface PreparerParts {
  settings: Pick<ConsumerSettings, 'ordered' | 'inboxWindow'>
  execution: ExecutionContext
  log: ConsumerLogger
  held: HeldDeliveries
  payloads: Payloads
  settler: Settler
  mover: EntryMover
  breakers: Breakers
  failures: FailureHandler
}

/**
 * Prepares deliveries for their call: begin, load the payloads, read them. A delivery that does not pass a step was dealt with: it waits, or
 * is gone.
 */
export class Preparer {
  readonly #parts: PreparerParts
  readonly #crashCheck: CrashCheck

  constructor(parts: PreparerParts) {
    this.#parts = parts
    this.#crashCheck = new CrashCheck({
      ...parts,
      count: (delivery) => this.#count(delivery),
      load: async (delivery) => (await this.#load([delivery])).length === 0,
    })
  }

  /**
   * Those that may run. One that must wait after all keeps back those that came along behind it in its ordering key.
   */
  prepare(call: Call): Promise<readonly Delivery[]> {
    return call.length === 1 ? this.#prepareOne(call[0]) : this.#prepareAll(call)
  }

  /** Most calls are of one, which keeps back no other: where there is nothing to wait for, it waits for nothing. */
  async #prepareOne(delivery: Delivery): Promise<readonly Delivery[]> {
    const begins = this.#begin(delivery)
    if (begins !== true && !(begins !== false && (await begins))) return NONE
    if (!isHeld(delivery)) return NONE
    if (!delivery.fields) await this.#load([delivery])
    if (delivery.state !== 'running') return NONE
    const passes = this.#read(delivery)
    if (passes !== true && !(passes !== false && (await passes))) return NONE
    return isHeld(delivery) ? [delivery] : NONE
  }

  async #prepareAll(call: Call): Promise<readonly Delivery[]> {
    const waiting = new Set<string>()
    const pass = async (all: readonly Delivery[], step: (delivery: Delivery) => boolean | Promise<boolean>) => {
      const passed: Delivery[] = []
      for (const delivery of all) {
        const { orderingKey } = delivery
        if (orderingKey !== undefined && waiting.has(orderingKey)) {
          this.#parts.held.requeue(delivery)
          continue
        }
        const passes = step(delivery)
        // Waited for only where there is something to wait for: a batch has many.
        if (passes === true || (passes !== false && (await passes))) passed.push(delivery)
        else if (orderingKey !== undefined && isHeld(delivery)) waiting.add(orderingKey)
      }
      // Some may have been lost while others were made ready.
      return passed.filter(isHeld)
    }
    const begun = await pass(call, (delivery) => this.#begin(delivery))
    // Not before this delivery is counted: a payload may be what kills its workers.
    const lacking = begun.some(({ fields }) => !fields) ? await this.#load(begun) : []
    for (const delivery of lacking) {
      if (delivery.orderingKey !== undefined && isHeld(delivery)) waiting.add(delivery.orderingKey)
    }
    const loaded = begun.filter(({ state }) => state === 'running')
    return pass(loaded, (delivery) => this.#read(delivery))
  }

  /** Whether it may be read and run. */
  #begin(delivery: Delivery): boolean | Promise<boolean> {
    if (!isHeld(delivery)) return false
    this.#parts.payloads.claim(delivery)
    // The pause that another worker has begun is waited for to its end.
    const early = delivery.due - Date.now()
    if (early > 0) {
      const wait = () => this.#parts.held.wait(delivery, early)
      if (this.#parts.breakers.isSurplus(delivery)) void this.#parts.mover.setAside(delivery, NOT_DUE, wait)
      else wait()
      return false
    }
    if (delivery.deliveryCount >= MAX_DELIVERIES && !delivery.begun) {
      return this.#crashCheck.end(delivery).then(() => false)
    }
    return !delivery.taken || delivery.begun || this.#beginTaken(delivery)
  }

  async #beginTaken(delivery: Delivery): Promise<boolean> {
    if (!(await this.#count(delivery))) return false
    delivery.begun = true
    return true
  }

  /** Loads the payloads that these lack; those that did not get theirs. */
  async #load(deliveries: readonly Delivery[]): Promise<Delivery[]> {
    const lacking = await this.#parts.payloads.load(deliveries)
    for (const { delivery, missing } of lacking) this.#missing(delivery, missing)
    return lacking.map(({ delivery }) => delivery)
  }

  /** Parses and validates the payload. Whether it may be run. */
  #read(delivery: Delivery): boolean | Promise<boolean> {
    if (!isHeld(delivery)) return false
    const { mover, failures, settings } = this.#parts
    const { inboxWindow } = settings
    let data: unknown
    try {
      data = parsePayload(delivery)
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error
      mover.deadLetter(delivery, 'malformed', error.message)
      return false
    }
    const age = Date.now() - bornAt(delivery.event, delivery.id)
    if (age > inboxWindow) {
      const error = `Expected an event of the last ${hours(inboxWindow)} hours (inboxWindow), found one of ${hours(age)} hours: whether this group has done it before is not known any more`
      return this.#refuseExpired(delivery, error)
    }
    const failed = (error: unknown): boolean => {
      failures.handle(delivery, new TransactionFailedError(error, 'handler', 'open'))
      return false
    }
    const accepted = (valid: Validated): boolean => {
      if ('invalid' in valid) mover.deadLetter(delivery, 'invalid_data', valid.invalid)
      else delivery.data = valid.value
      return 'value' in valid
    }
    // For each attempt: a schema may look at something outside.
    let valid: ReturnType<typeof validateData>
    try {
      valid = validateData(delivery, data)
    } catch (error) {
      return failed(error)
    }
    return 'then' in valid ? valid.then(accepted, failed) : accepted(valid)
  }

  /** The inbox keeps a row for `inboxWindow` after the event was done, which may be long after it was made. What it names is a duplicate. */
  async #refuseExpired(delivery: Delivery, error: string): Promise<false> {
    const { execution, failures, held, mover } = this.#parts
    let isDone: boolean
    try {
      const key = await recordedKeyOf(delivery)
      isDone = key !== undefined && (await wasDone(execution, key))
    } catch (cause) {
      failures.handle(delivery, TransactionFailedError.of(cause))
      return false
    }
    if (!isHeld(delivery)) return false
    if (isDone) held.finish(delivery, 'duplicate')
    else mover.deadLetter(delivery, 'expired', error)
    return false
  }

  /** Counts this delivery of an entry that another worker had. Whether it may be run. */
  async #count(delivery: Delivery): Promise<boolean> {
    const { held, settler, settings } = this.#parts
    const ours = await settler.begin(delivery)
    if (ours === undefined) {
      held.waitAfterConflict(delivery)
      return false
    }
    // An ordered worker has what its lease says, even where the group was lost: what comes behind must not come before.
    if (!ours && !settings.ordered) held.drop(delivery)
    if (!isHeld(delivery)) return false
    delivery.deliveryCount += 1
    delivery.counted = true
    return true
  }

  #missing(delivery: Delivery, missing: Missing['missing']): void {
    if (!isHeld(delivery)) return
    const { held, log, settings } = this.#parts
    if (missing === 'trimmed') held.drop(delivery)
    else if (missing === 'refused') held.waitAfterConflict(delivery)
    else if (settings.ordered) held.takeAgain(delivery)
    else {
      log.warn(logFields(delivery), 'an entry is not pending with this worker any more; it is dropped unprocessed')
      held.drop(delivery)
    }
  }
}

const NONE: readonly Delivery[] = []

const NOT_DUE = 'Taken over before its next attempt is due'

const hours = (milliseconds: number): string => (milliseconds / 3_600_000).toFixed(1)
