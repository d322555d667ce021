import type pg from 'pg'
import { readSlot, type Slot } from '../../postgres/replication/slot.js'
import { openGaps } from '../../postgres/state/gaps.js'
import { countOpenIncidents } from '../../postgres/state/incidents.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import type { Metrics } from '../../telemetry/metrics.js'
import type { StateStore } from '../confirm/state-store.js'
import { haltFor, type Leads, verifyPublication, verifySlot } from '../identity.js'
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

export interface SlotMonitorOptions {
  stateStore: StateStore
  lineage: Lineage
  metrics: Metrics
  failed(error: unknown): void
}

/** Runs `monitorSlot`, unless it still runs. */
export class SlotMonitor {
  readonly #options: SlotMonitorOptions
  #isRunning = false

  constructor(options: SlotMonitorOptions) {
    this.#options = options
  }

  async poll(): Promise<void> {
    if (this.#isRunning) return
    const { stateStore, lineage, metrics, failed } = this.#options
    this.#isRunning = true
    try {
      await stateStore.inTurn((postgres) =>
        monitorSlot(postgres, lineage, metrics, () => stateStore.holdsLock(postgres)),
      )
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
