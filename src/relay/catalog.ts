import type pg from 'pg'
import { countOpenIncidents } from '../postgres/incidents.js'
import type { Lineage } from '../postgres/lineage.js'
import { readSlot, type Slot } from '../postgres/slot.js'
import type { Metrics } from '../telemetry/metrics.js'
import { type Leads, verifyPublication, verifySlot } from './identity.js'
import { verifyServed } from './schema.js'
import { verifyTable } from './table.js'

/**
 * Looks at what may change while events flow: a publication that is altered says nothing by itself, a slot is lost in
 * silence, and a newer version may migrate the schema. Throws a Halt once it has recorded what it found.
 */
export async function watchCatalog(
  postgres: pg.ClientBase,
  lineage: Lineage,
  metrics: Metrics,
  leads: Leads,
): Promise<void> {
  await verifyServed(async (sql) => (await postgres.query(sql)).rows, lineage)
  await verifyPublication(postgres, lineage, leads)
  await verifyTable(postgres, lineage, leads)
  await countIncidents(postgres, lineage, metrics)
  const slot = await measureSlot(postgres, lineage, metrics)
  if (slot?.walStatus === 'lost') await verifySlot(postgres, lineage, slot, leads)
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
