import type pg from 'pg'
import { ExitCode } from '../base/failure.js'
import { OWN_OUTBOX } from '../config/schema.js'
import { requireDecoding, requireServer } from '../postgres/client/server.js'
import { requireDroppable } from '../postgres/replication/slot-creation.js'
import {
  type AdoptionPlan,
  adoptLineage,
  type LeftOut,
  planAdoption,
  requireStored,
} from '../postgres/setup/adoption.js'
import { RENEWAL_BLOCKED } from '../postgres/setup/restored-rows.js'
import { withSetupLock } from '../postgres/setup/setup-lock.js'
import { storedLineage } from '../postgres/state/lineage.js'
import type { Command, Context } from './command.js'
import { withDatabase } from './database.js'
import { describeSought, type SoughtEvents, seekEvents } from './left-out.js'
import { describeRenewed, lockTimeoutOf } from './setup.js'

export const adopt: Command = {
  summary: 'start a new lineage after a restore, a major upgrade or a deliberate copy; shows what it found, asks first',
  usage: `outrider adopt [--lock-timeout <duration>]

Lists the events that it would leave out, and looks for them in their streams where Redis can be reached.

  --lock-timeout <duration>   how long the new slot may wait for open write transactions (10s)`,
  examples: [['outrider adopt', 'after a restore, once this database is meant to publish']],
  docs: 'docs/operations.md#incidents',
  options: { 'lock-timeout': { type: 'string' } },
  async run(context) {
    const { lockTimeout } = lockTimeoutOf(context)
    return withDatabase(context, 'outrider adopt', async (client) => {
      await requireServer(client)
      await requireDecoding(client)
      return withSetupLock(client, () => run(client, context, lockTimeout))
    })
  },
}

async function run(client: pg.ClientBase, context: Context, lockTimeout: number | undefined): Promise<ExitCode> {
  const { slot } = context.config
  const plan = await planAdoption(client, requireStored(await storedLineage(client, slot), slot), context.config.outbox)
  if (plan.slot) requireDroppable(slot, plan.slot)
  const sought = await seekEvents(context, plan.leftOut)
  if (!context.json) context.out(describe(plan, sought))
  if (!(await context.ask('Start a new lineage and leave these events out?'))) {
    if (!context.json) context.out('Nothing was changed.')
    return ExitCode.failed
  }
  const { lineage, closed, renewed, isBlocked } = await adoptLineage(client, plan, lockTimeout)
  const findings = isBlocked ? [RENEWAL_BLOCKED] : []
  context.out(
    context.json
      ? JSON.stringify({
          previous: plan.stored.lineage,
          lineage,
          closedIncidents: closed,
          renewed,
          findings,
          leftOut: { ...plan.leftOut, ...sought },
        })
      : [
          `Lineage ${lineage.lineage} begins at ${lineage.confirmedLsn} with a new slot ${lineage.slot}. Closed incidents: ${closed.join(', ') || 'none'}.`,
          ...(renewed > 0 ? [`Renewed: ${describeRenewed(renewed)}.`] : []),
          ...findings.map((finding) => `\n! ${finding}`),
        ].join('\n'),
  )
  return ExitCode.done
}

function describe({ stored, server, slot, heads, openIncidents, leftOut }: AdoptionPlan, sought: SoughtEvents): string {
  return [
    `Lineage ${stored.lineage}, slot ${stored.slot}`,
    `  system id  stored ${stored.systemId}, found ${server.systemId}${note(stored.systemId === server.systemId)}`,
    `  timeline   stored ${stored.timeline}, found ${server.timeline}${note(stored.timeline <= server.timeline)}`,
    `  confirmed  ${stored.confirmedLsn ?? 'never: its setup was interrupted'}`,
    `  slot       ${slot ? `present (${slot.walStatus ?? 'WAL status unknown'}), will be dropped` : 'missing'}`,
    `  streams    ${heads} with a saved head`,
    `  incidents  ${openIncidents} open, will be closed as adopted`,
    '',
    describeLeftOut(leftOut, stored.outboxTable),
    ...(leftOut.rows > 0 && leftOut.unlisted ? [`Their ids are not listed: ${leftOut.unlisted}.`] : []),
    ...(leftOut.events.length > 0 ? [describeSought(sought, leftOut.rows)] : []),
    'Published from then on: what commits after the new slot exists. Consumers skip by source and id what they have done.',
  ].join('\n')
}

const note = (same: boolean): string => (same ? '' : '   <- not the same')

function describeLeftOut({ rows, provenUntil, oldest, newest }: LeftOut, table: string): string {
  const since =
    table === OWN_OUTBOX.table
      ? 'they committed after the last checkpoint'
      : 'their last write, an UPDATE included, is not proven to be older than the last checkpoint'
  const range = oldest && newest ? `, created ${oldest.toISOString()} to ${newest.toISOString()}` : ''
  if (rows === 0 && !provenUntil) return `${table} is empty: no event is left out.`
  if (!provenUntil) {
    return `NOT published by the new lineage: all ${rows} rows in ${table}${range}. Nothing here proves which of them the old one has published.`
  }
  return rows === 0
    ? `Every row in ${table} was published by ${provenUntil.toISOString()}: none is left out.`
    : `NOT published by the new lineage: ${rows} rows in ${table}${range}. They are not known to have been published: ${since}, ${provenUntil.toISOString()}.`
}
