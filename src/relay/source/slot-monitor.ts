import type pg from 'pg'
import { every } from '../../base/interval.js'
import { readSlot, type Slot } from '../../postgres/replication/slot.js'
import { openGaps } from '../../postgres/state/gaps.js'
import { countOpenIncidents } from '../../postgres/state/incidents.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import type { Metrics } from '../../telemetry/metrics.js'
import type { StateStore } from '../confirm/state-store.js'
import { haltFor, type Leads, requireSlot, verifyPublication, verifySlot } from '../identity.js'
import { verifyServed } from '../schema-check.js'
import { verifyTable } from '../table-check.js'

/**
 * Looks at what may change while events flow: a publication that is altered says nothing by itself, a slot is lost in
 * silence, and a newer version may migrate the schema. Throws a HaltError once it has recorded what it found.
 */
export async function monitorSlot(
  postgres: pg.ClientBase,
  lineage: Lineage,
  metrics: Metrics,
  leads: Leads,
): Promise<void> {
  await verifyServed(async (sql) => (await postgres.query(sql)).rows, lineage)
  await verifyPublication(postgres, lineage, leads)
  await verifyTable(postgres, lineage, leads)
  await countIncidents(postgres, lineage, metrics)
  // Recorded by an earlier session, which was frozen: nothing else would look at it before the next session.
  const [open] = await openGaps(postgres, lineage.lineage)
  if (open) throw await haltFor(postgres, lineage, { ...open, kind: 'gap', stream: null })
  const slot = await measureSlot(postgres, lineage, metrics)
  if (slot?.walStatus === 'lost') await verifySlot(postgres, lineage, slot, leads)
}

/** The same while a gap is repaired, and nothing reads the slot: `lineage` says from where WAL is read afterwards. */
export async function monitorUnreadSlot(
  postgres: pg.ClientBase,
  lineage: Lineage,
  metrics: Metrics,
  leads: Leads,
): Promise<void> {
  await verifyPublication(postgres, lineage, leads)
  await measureSlot(postgres, lineage, metrics)
  await requireSlot(postgres, lineage, leads)
}

export interface SlotMonitorOptions {
  stateStore: StateStore
  lineage: Lineage
  metrics: Metrics
  look: typeof monitorSlot
  failed(error: unknown): void
}

const SLOT_MONITOR_EVERY_MS = 2_000

/** Looks now and then, unless it still does. */
export class SlotMonitor {
  readonly #options: SlotMonitorOptions
  #isRunning = false

  constructor(options: SlotMonitorOptions) {
    this.#options = options
  }

  start(signal: AbortSignal): void {
    every(SLOT_MONITOR_EVERY_MS, () => void this.#poll(), signal)
  }

  /** Rejects with what it has recorded. */
  async look(): Promise<void> {
    const { stateStore, lineage, metrics, look } = this.#options
    await stateStore.inTurn((postgres) => look(postgres, lineage, metrics, () => stateStore.holdsLock(postgres)))
  }

  async #poll(): Promise<void> {
    if (this.#isRunning) return
    const { failed } = this.#options
    this.#isRunning = true
    try {
      await this.look()
    } catch (error) {
      failed(error)
    } finally {
      this.#isRunning = false
    }
  }
}

export async function countIncidents(postgres: pg.ClientBase, lineage: Lineage, metrics: Metrics): Promise<void> {
  metrics.setOpenIncidents(await countOpenIncidents(postgres, lineage.lineage))
}

/** Undefined when there is none. */
export async function measureSlot(
  postgres: pg.ClientBase,
  lineage: Lineage,
  metrics: Metrics,
): Promise<Slot | undefined> {
  const slot = await readSlot(postgres, lineage.slot)
  metrics.slot(slot)
  return slot
}
