import type pg from 'pg'
import { ExitCode, OutriderError } from '../base/failure.js'
import { requireServer } from '../postgres/client/server.js'
import { type FoundSlot, findSlot, requireDroppable } from '../postgres/replication/slot-creation.js'
import { withSetupLock } from '../postgres/setup/setup-lock.js'
import { removeLineage, removeSchema } from '../postgres/setup/teardown.js'
import { otherLineages, type StoredLineage, storedLineage } from '../postgres/state/lineage.js'
import type { Command, Context } from './command.js'
import { withDatabase } from './database.js'

export const teardown: Command = {
  summary: 'drop slot and publication (and with --data the schema); asks first',
  usage: `outrider teardown [--data]

  --data   also drop the schema outrider: outbox, inbox and all that Outrider keeps`,
  examples: [['outrider teardown', 'drop slot and publication, keep the data']],
  docs: 'docs/operations.md',
  unused: ['redis'],
  options: { data: { type: 'boolean' } },
  run(context) {
    return withDatabase(context, 'outrider teardown', async (client) => {
      await requireServer(client)
      return withSetupLock(client, () => tearDown(client, context))
    })
  },
}

async function tearDown(client: pg.ClientBase, context: Context): Promise<ExitCode> {
  const { slot: name } = context.config
  const data = context.flags.data === true
  const found = await look(client, name)
  if (!found.lineage && !(data && found.schema)) {
    context.out(
      context.json
        ? JSON.stringify({ dropped: [] })
        : `Nothing to drop: this database has no lineage for slot ${name}.`,
    )
    return ExitCode.done
  }
  if (found.lineage && found.slot) requireDroppable(name, found.slot)
  if (data && found.others.length > 0) {
    throw new OutriderError(
      `--data: expected no other lineage to need the schema outrider, found ${found.others.join(', ')} (slots). ` +
        'Run `outrider teardown` for each of them first, with its name in OUTRIDER_SLOT.',
    )
  }

  const dropped = [
    ...(found.lineage && found.slot ? [`slot ${name}`] : []),
    ...(found.lineage ? [`publication ${found.lineage.publication}`] : []),
    ...(data ? [`schema outrider with ${found.events} events in the outbox and ${found.inbox} rows in the inbox`] : []),
  ]
  if (!context.json) context.out(`Will drop:\n${dropped.map((what) => `  ${what}`).join('\n')}`)
  if (!(await context.ask('Events that were not published yet will not be. Drop all this?'))) {
    if (!context.json) context.out('Nothing was changed.')
    return ExitCode.failed
  }
  if (found.lineage) await removeLineage(client, found.lineage)
  const roles = data ? await removeSchema(client) : undefined
  context.out(context.json ? JSON.stringify({ dropped, rolesKept: roles }) : describe(roles))
  return ExitCode.done
}

function describe(roles: string[] | undefined): string {
  if (!roles) return 'Dropped. The schema outrider stays; `outrider setup` starts again.'
  return roles.length > 0 ? `Dropped. Still granted or used elsewhere, so kept: ${roles.join(', ')}.` : 'Dropped.'
}

interface Found {
  schema: boolean
  lineage: StoredLineage | undefined
  slot: FoundSlot | undefined
  /** Slots of other lineages that are not retired. */
  others: string[]
  events: string
  inbox: string
}

/** A workers' database has a schema with nothing but the inbox. */
async function look(client: pg.ClientBase, slot: string): Promise<Found> {
  const { rows } = await client.query<{ schema: boolean; lineage: boolean; inbox: boolean }>(
    `select to_regnamespace('outrider') is not null as schema, to_regclass('outrider.lineage') is not null as lineage,
       to_regclass('outrider.inbox') is not null as inbox`,
  )
  const has = rows[0]!
  return {
    schema: has.schema,
    lineage: has.lineage ? await storedLineage(client, slot) : undefined,
    slot: await findSlot(client, slot),
    others: has.lineage ? (await otherLineages(client, slot)).map((other) => other.slot) : [],
    events: has.lineage ? await count(client, 'outrider.outbox') : '0',
    inbox: has.inbox ? await count(client, 'outrider.inbox') : '0',
  }
}

async function count(client: pg.ClientBase, table: string): Promise<string> {
  const { rows } = await client.query<{ count: string }>(`select count(*) from ${table}`)
  return rows[0]!.count
}
