import type pg from 'pg'
import { ExitCode, OutriderError } from '../base/failure.js'
import { serverVersion } from '../postgres/client/server.js'
import type { Incident } from '../postgres/state/incident.js'
import { DEFAULT_REPAIR_MAX } from '../postgres/state/incident-reasons.js'
import { closeIncident, getIncident, listIncidents, noIncident, openIncidentIds } from '../postgres/state/incidents.js'
import { remedyOf, stepsOf } from '../postgres/state/remedy.js'
import { type RepairProgress, readRepairProgress } from '../postgres/state/repair-progress.js'
import { requestRepair } from '../postgres/state/repair-request.js'
import { repairPolicy, repairStateOf } from '../postgres/state/repair-state.js'
import { count } from '../status/format.js'
import type { Command, Context } from './command.js'
import { withDatabase } from './database.js'
import { incidentsText, incidentText, type ListedIncident } from './incidents-text.js'
import { unknownAction, usage } from './usage.js'

const ACTIONS = ['list', 'show', 'repair', 'close']

export const incidents: Command = {
  summary: 'list | show | repair | close: gaps, foreign servers, rejected rows',
  usage: `outrider incidents [list] [--all]
outrider incidents show <id>
outrider incidents repair <id> [--max <events>]
outrider incidents close <id> … | --reason <reason> | --all  [--note <text>]

  list      the open ones; exit code 4 while there is one that is not repaired. With --all the closed ones, too
  show      the finding, its consequence and what leads on, or how far its repair is; then the facts, a rejected row included
  repair    have the relay put back from the outbox what a gap lacks, although onGap is halt, or although so many events are
            missing that it asks first; at most --max (10,000,000)
  close     accept the finding, so that the relay continues; for a gap: accept the loss, also while it is being repaired. A slot
            that is missing or lost cannot be accepted so: have it repaired, or run outrider adopt
  --reason  close all open ones with this reason
  --all     close all open ones
  --note    why they were closed, for those who read it later`,
  examples: [
    ['outrider incidents', 'open ones'],
    ['outrider incidents show 12', 'one of them, and the next command'],
    ['outrider incidents repair 12', 'put its events back'],
    ["outrider incidents close 12 13 --note 'restored'", 'accept two'],
    ['outrider incidents close --reason stream_behind', 'accept what a FLUSHALL lost'],
  ],
  docs: 'docs/operations.md#incidents',
  unused: ['redis'],
  options: { all: { type: 'boolean' }, max: { type: 'string' }, note: { type: 'string' }, reason: { type: 'string' } },
  actions: ACTIONS,
  takesArguments: true,
  async run(context) {
    const action = actionOf(context)
    return withDatabase(context, 'outrider incidents', action)
  },
}

function actionOf(context: Context): (client: pg.ClientBase) => Promise<ExitCode> {
  const [name = 'list', ...ids] = context.args
  if (!ACTIONS.includes(name)) throw unknownAction('incidents', name, ACTIONS)
  const selected = context.flags.all === true || context.flags.reason !== undefined
  const valid = ids.every((id) => /^\d{1,18}$/.test(id))
  if (name === 'list' && ids.length === 0 && context.flags.reason === undefined)
    return (client) => list(client, context)
  if (name === 'show' && ids.length === 1 && valid && !selected) return (client) => show(client, context, ids[0]!)
  if (name === 'repair' && ids.length === 1 && valid && !selected) {
    const max = maxOf(context)
    return (client) => repair(client, context, ids[0]!, max)
  }
  if (name === 'close' && valid && (selected ? ids.length === 0 : ids.length > 0)) {
    if (context.flags.all === true && context.flags.reason !== undefined) {
      throw usage('Expected --reason or --all, found both.')
    }
    return (client) => close(client, context, ids)
  }
  throw usage(
    `Expected list, show <id>, repair <id>, or close with ids, --reason or --all, found "${[...context.args, ...flagsOf(context)].join(' ')}".`,
  )
}

function maxOf({ flags: { max } }: Context): number {
  if (max === undefined) return DEFAULT_REPAIR_MAX
  if (/^[1-9]\d{0,14}$/.test(String(max))) return Number(max)
  throw usage(`--max: expected a number of events, found "${String(max)}".`)
}

const flagsOf = ({ flags }: Context): string[] => [
  ...(flags.all === true ? ['--all'] : []),
  ...(flags.reason === undefined ? [] : ['--reason', String(flags.reason)]),
]

async function list(client: pg.ClientBase, context: Context): Promise<ExitCode> {
  const { flags, json, out } = context
  const found = await listIncidents(client, { closed: flags.all === true })
  if (json) out(JSON.stringify(found.map(({ row, ...rest }) => ({ ...rest, hasRow: row !== null }))))
  else if (found.length > 0) out(incidentsText(await withRepairs(client, context, found)))
  else out(flags.all ? 'There never was an incident.' : 'No open incident.')
  return found.some(({ closedAt, repairedAt }) => closedAt === null && repairedAt === null)
    ? ExitCode.findings
    : ExitCode.done
}

/** Each lineage has one repair at a time, for all of its gaps. */
async function withRepairs(
  client: pg.ClientBase,
  { config }: Context,
  incidents: readonly Incident[],
): Promise<ListedIncident[]> {
  const policy = repairPolicy(config)
  const repairs = new Map<string, RepairProgress | undefined>()
  for (const { lineage, kind, closedAt } of incidents) {
    if (kind !== 'gap' || closedAt !== null || repairs.has(lineage)) continue
    repairs.set(lineage, await readRepairProgress(client, lineage))
  }
  return incidents.map((incident) => ({
    incident,
    repair: repairStateOf(incident, policy, repairs.get(incident.lineage)),
  }))
}

async function show(client: pg.ClientBase, context: Context, id: string): Promise<ExitCode> {
  const { config, json, out } = context
  const found = await getIncident(client, id)
  if (!found) throw noIncident(id)
  if (found.closedAt) {
    out(json ? JSON.stringify({ ...found, nextSql: [], next: [] }) : incidentText(found))
    return ExitCode.done
  }
  const remedy = remedyOf(found, await serverVersion(client), repairPolicy(config))
  const [{ repair }] = (await withRepairs(client, context, [found])) as [ListedIncident]
  if (json) {
    const { sql, commands } = stepsOf(found, remedy, repair)
    const otherwise = repair.is === 'settling' ? [] : (remedy.otherwise?.commands ?? [])
    out(JSON.stringify({ ...found, repair, nextSql: sql, next: commands, otherwise }))
  } else out(incidentText(found, { remedy, repair }))
  return ExitCode.done
}

async function repair(client: pg.ClientBase, { json, out }: Context, id: string, max: number): Promise<ExitCode> {
  const asked = await requestRepair(client, id, max)
  if (json) out(JSON.stringify(asked))
  else
    out(
      `The relay repairs incident ${id}: it puts back at most ${count(max)} events. \`outrider incidents show ${id}\` has its progress.`,
    )
  return ExitCode.done
}

/** Each in a transaction of its own: one that cannot be closed does not keep the others open. */
async function close(client: pg.ClientBase, context: Context, given: readonly string[]): Promise<ExitCode> {
  const { flags, json, out } = context
  const reason = flags.reason === undefined ? undefined : String(flags.reason)
  const ids = given.length > 0 ? [...new Set(given)] : await openIncidentIds(client, reason)
  if (ids.length === 0) {
    if (!json) out(reason === undefined ? 'No open incident.' : `No open incident with reason ${reason}.`)
    return ExitCode.done
  }
  if (!json) await preview(client, context, ids)
  if (!(await context.ask(ids.length === 1 ? 'Close it?' : `Close these ${ids.length} incidents?`))) {
    if (!json) out('Nothing was changed.')
    return ExitCode.failed
  }
  const note = typeof flags.note === 'string' ? flags.note : undefined
  const refused: Error[] = []
  for (const id of ids) {
    try {
      const closed = await closeIncident(client, id, note, context.config.outbox)
      out(json ? JSON.stringify(closed) : `Incident ${id} is closed.`)
    } catch (error) {
      if (!(error instanceof OutriderError)) throw error
      refused.push(error)
    }
  }
  if (refused.length > 0) throw new OutriderError(refused.map(({ message }) => message).join('\n'))
  return ExitCode.done
}

/** One at a time: a rejected row may have 8 MiB. */
const PREVIEWED = 100

async function preview(client: pg.ClientBase, context: Context, ids: readonly string[]): Promise<void> {
  const { out } = context
  const found: Incident[] = []
  for (const id of ids.slice(0, PREVIEWED)) {
    const incident = await getIncident(client, id)
    if (!incident) throw noIncident(id)
    found.push(ids.length === 1 ? incident : { ...incident, row: null })
  }
  const listed = await withRepairs(client, context, found)
  const [first] = listed as [ListedIncident]
  out(ids.length === 1 ? incidentText(first.incident, first) : incidentsText(listed))
  if (ids.length > PREVIEWED) out(`… and ${ids.length - PREVIEWED} more`)
}
