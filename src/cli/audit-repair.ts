import type pg from 'pg'
import type { MissingEvent } from '../audit/options.js'
import type { AuditRepair } from '../audit/report.js'
import { streamOf } from '../event/names.js'
import type { Lineage } from '../postgres/state/lineage.js'
import { addRequestedEvents, cancelRequest, openRequest, releaseRequest } from '../postgres/state/requests.js'
import type { Context } from './command.js'
import { awaitRequest } from './request-wait.js'

/** Collects what an audit finds missing in a request, and has the relay append it. */
export class MissingRequest {
  readonly #postgres: pg.Client
  readonly #lineage: Lineage
  #id: string | undefined
  #count = 0

  constructor(postgres: pg.Client, lineage: Lineage) {
    this.#postgres = postgres
    this.#lineage = lineage
  }

  async add(events: readonly MissingEvent[]): Promise<void> {
    this.#id ??= await openRequest(this.#postgres, this.#lineage.lineage, 'audit')
    const named = events.map(([id, key]) => [id, streamOf(key)] as const)
    await addRequestedEvents(this.#postgres, this.#id, named)
    this.#count += events.length
  }

  /** The relay may begin; `isAwaited`: and has ended. */
  async execute(context: Context, isAwaited: boolean): Promise<AuditRepair> {
    const requested = this.#count
    const nothing = { leftOut: 0, gone: 0, rejected: 0 }
    if (this.#id === undefined) return { request: null, requested, appended: 0, ...nothing }
    await releaseRequest(this.#postgres, this.#id, { ids: requested })
    if (!isAwaited) return { request: this.#id, requested, appended: null, ...nothing }
    const { id, found, appended, gone, rejected } = await awaitRequest(context, this.#postgres, this.#lineage, this.#id)
    return { request: id, requested, appended, leftOut: requested - (found ?? 0), gone, rejected }
  }

  /** The audit has failed: what it had found by then is forgotten. */
  async drop(): Promise<void> {
    // If that fails, the connection is lost; the relay leaves alone what was not released.
    if (this.#id !== undefined) await cancelRequest(this.#postgres, this.#lineage.lineage, this.#id).catch(() => {})
  }
}
