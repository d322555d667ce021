import type pg from 'pg'
import type { Config } from '../../config/schema.js'
import { nameLostStreams, type OpenGap, openGaps } from '../../postgres/state/gaps.js'
import { REPAIRABLE } from '../../postgres/state/incident-reasons.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import { isOwnOutbox } from '../../postgres/state/repair-state.js'
import { GapError } from '../errors.js'
import { requireSlot, verifyPublication } from '../identity.js'

/** Does the configuration let gaps with this reason be repaired without being asked? */
export const repairsByItself = ({ onGap, outbox }: Pick<Config, 'onGap' | 'outbox'>, reason: string): boolean =>
  onGap === 'repair' && isRepairable(outbox, reason)

const isRepairable = (outbox: Config['outbox'], reason: string): boolean =>
  isOwnOutbox(outbox) && REPAIRABLE.has(reason)

/**
 * The open gaps of a lineage, where all of them are to be repaired now; undefined where none is open, or a person has to decide. A
 * request for one of them covers the others: its own repair may find them.
 */
export async function planRepair(
  client: pg.ClientBase,
  lineage: Lineage,
  config: Config,
): Promise<OpenGap[] | undefined> {
  await nameLostStreams(client, lineage.lineage)
  const gaps = await openGaps(client, lineage.lineage)
  if (gaps.length === 0 || (await isForeign(client, lineage))) return undefined
  if (!gaps.every(({ reason }) => isRepairable(config.outbox, reason))) return undefined
  if (config.onGap === 'repair') return gaps
  return extendRequest(client, lineage.lineage, gaps)
}

/** Undefined: none of them is asked for. */
async function extendRequest(
  client: pg.ClientBase,
  lineage: string,
  gaps: readonly OpenGap[],
): Promise<OpenGap[] | undefined> {
  const asked = gaps.flatMap(({ repairMax }) => repairMax ?? [])
  if (asked.length === 0) return undefined
  if (asked.length === gaps.length) return [...gaps]
  const ids = gaps.map(({ id }) => id)
  await client.query('update outrider.incident set repair_max = $2 where id = any ($1) and repair_max is null', [
    ids,
    Math.max(...asked),
  ])
  return openGaps(client, lineage)
}

/** Of open gaps that are not all repaired now, the one that a person has to decide on first. */
export const firstUndecided = (gaps: readonly OpenGap[], { outbox }: Pick<Config, 'outbox'>): OpenGap | undefined =>
  gaps.find(({ reason, repairMax }) => !isRepairable(outbox, reason) || repairMax === undefined) ?? gaps[0]

async function isForeign(client: pg.ClientBase, { lineage }: Lineage): Promise<boolean> {
  const { rowCount } = await client.query(
    "select from outrider.incident where lineage = $1 and kind = 'foreign' and closed_at is null limit 1",
    [lineage],
  )
  return rowCount !== 0
}

/** Records what slot and publication have lost beside what is known: all of it is repaired at once. */
export async function recordSourceGaps(client: pg.ClientBase, lineage: Lineage): Promise<void> {
  await recorded(() => requireSlot(client, lineage))
  await recorded(() => verifyPublication(client, lineage))
}

async function recorded(verify: () => Promise<unknown>): Promise<void> {
  try {
    await verify()
  } catch (error) {
    if (!(error instanceof GapError)) throw error
  }
}
