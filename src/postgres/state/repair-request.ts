import type pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import { OWN_OUTBOX } from '../../config/schema.js'
import { serverVersion } from '../client/server.js'
import { inTransaction } from '../client/transaction.js'
import type { Incident } from './incident.js'
import { DEFAULT_REPAIR_MAX, REPAIRABLE } from './incident-reasons.js'
import { getIncident, noIncident, wasClosed } from './incidents.js'
import { describeRemedy, remedyOf } from './remedy.js'
import { clearRepairHalt } from './repair-halt.js'

/**
 * Asks the relay to repair an open gap, with at most `max` events, whatever its configuration says. Throws an
 * OutriderError, and changes nothing, where there is nothing to repair, or nothing to repair it from.
 */
export async function requestRepair(
  client: pg.ClientBase,
  id: string,
  max: number = DEFAULT_REPAIR_MAX,
): Promise<Incident> {
  return inTransaction(client, async () => {
    const { rows } = await client.query<{ table: string }>(
      `select outbox_table as table from outrider.incident as i join outrider.lineage using (lineage)
       where i.id = $1 for update of i`,
      [id],
    )
    const incident = await getIncident(client, id)
    if (!incident || !rows[0]) throw noIncident(id)
    if (incident.closedAt) throw wasClosed(incident)
    const refused = whyNot(incident, rows[0].table)
    if (refused !== undefined) {
      const next = describeRemedy(remedyOf(incident, await serverVersion(client)))
      throw new OutriderError(
        `Incident ${id} (${incident.reason}) cannot be repaired: ${refused}. To continue: ${next}`,
      )
    }
    if (incident.repairedAt) {
      throw new OutriderError(
        `Incident ${id} was repaired at ${incident.repairedAt.toISOString()}: it is closed when the transactions that were open then ` +
          `have ended. \`outrider incidents show ${id}\` names them. Nothing is held up meanwhile.`,
      )
    }
    await client.query('update outrider.incident set repair_max = $2 where id = $1', [id, max])
    // It covers the other gaps as well. The relay looks whether it can begin now.
    await clearRepairHalt(client, incident.lineage)
    return { ...incident, repairMax: max, repairHalt: null }
  })
}

function whyNot({ kind, reason }: Incident, table: string): string | undefined {
  if (kind !== 'gap') return 'it is no gap, so no events are to be put back'
  if (!REPAIRABLE.has(reason)) return 'only a person can correct its cause'
  if (table === OWN_OUTBOX.table) return undefined
  return `its outbox is ${table}, and only rows of ${OWN_OUTBOX.table} are put back. \`outrider audit\` compares that table with the streams`
}
