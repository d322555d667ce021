import type pg from 'pg'
import { countOpenIncidents } from '../postgres/incidents.js'
import type { Lineage } from '../postgres/lineage.js'
import { readSlot } from '../postgres/slot.js'
import type { Metrics } from '../telemetry/metrics.js'
import { verifyPublication, verifySlot } from './identity.js'

/**
 * Looks at what may change while events flow: a publication that is altered says nothing by itself, and a slot is
 * lost in silence. Throws a Halt once it has recorded what it found.
 */
export async function watchCatalog(postgres: pg.ClientBase, lineage: Lineage, metrics: Metrics): Promise<void> {
  await verifyPublication(postgres, lineage)
  await countIncidents(postgres, lineage, metrics)
  const slot = await readSlot(postgres, lineage.slot)
  if (!slot) return
  metrics.slot(slot)
  if (slot.walStatus === 'lost') await verifySlot(postgres, lineage, slot)
}

export async function countIncidents(postgres: pg.ClientBase, lineage: Lineage, metrics: Metrics): Promise<void> {
  metrics.setOpenIncidents(await countOpenIncidents(postgres, lineage.lineage))
}
