import type pg from 'pg'
import { ExitCode } from '../failure.js'
import type { Incident } from '../postgres/incident.js'
import { closeIncident, getIncident, listIncidents, noIncident } from '../postgres/incidents.js'
import { describeRemedy, type Remedy, remedyOf } from '../postgres/remedy.js'
import { serverVersion } from '../postgres/server.js'
import type { Command, Context } from './command.js'
import { withDatabase } from './database.js'
import { table } from './table.js'
import { unknownAction, usage } from './usage.js'

const ACTIONS = ['list', 'show', 'close']

export const incidents: Command = {
  summary: 'list | show | close: gaps, foreign servers, rejected rows',
  usage: `outrider incidents [list] [--all]
outrider incidents show <id>
outrider incidents close <id> [--note <text>]

  list     the open ones; exit code 4 while there is one
  show     all that is known about one, a rejected row included, and the commands that lead on from it
  close    accept what it says, so that the relay continues; for a gap in a stream: accept the loss. A slot that is missing
           or lost cannot be accepted so: run outrider adopt
  --all    list the closed ones, too
  --note   why it was closed, for those who read it later`,
  examples: [
    ['outrider incidents', 'what is open'],
    ['outrider incidents show 12', 'all of one, and what leads on'],
    ["outrider incidents close 12 --note 'restored'", 'accept it'],
  ],
  docs: 'docs/operations.md#incidents',
  unused: ['redis'],
  options: { all: { type: 'boolean' }, note: { type: 'string' } },
  actions: ACTIONS,
  takesArguments: true,
  async run(context) {
    const action = actionOf(context)
    return withDatabase(context, 'outrider incidents', action)
  },
}

function actionOf(context: Context): (client: pg.ClientBase) => Promise<ExitCode> {
  const [name = 'list', id, ...rest] = context.args
  if (name === 'list' && id === undefined) return (client) => list(client, context)
  if ((name === 'show' || name === 'close') && id !== undefined && /^\d{1,18}$/.test(id) && rest.length === 0) {
    return (client) => (name === 'show' ? show(client, context, id) : close(client, context, id))
  }
  if (!ACTIONS.includes(name)) throw unknownAction('incidents', name, ACTIONS)
  throw usage(`Expected list, show <id> or close <id>, found "${context.args.join(' ')}".`)
}

async function list(client: pg.ClientBase, { flags, json, out }: Context): Promise<ExitCode> {
  const found = await listIncidents(client, { closed: flags.all === true })
  if (json) out(JSON.stringify(found.map(({ row, ...rest }) => ({ ...rest, hasRow: row !== null }))))
  else out(found.length > 0 ? listing(found) : flags.all ? 'There never was an incident.' : 'No open incident.')
  return found.some(({ closedAt }) => closedAt === null) ? ExitCode.findings : ExitCode.done
}

async function show(client: pg.ClientBase, { json, out }: Context, id: string): Promise<ExitCode> {
  const found = await getIncident(client, id)
  if (!found) throw noIncident(id)
  const remedy = found.closedAt ? undefined : remedyOf(found, await serverVersion(client))
  out(
    json
      ? JSON.stringify({ ...found, nextSql: remedy?.sql ?? [], next: remedy?.commands ?? [] })
      : describe(found, remedy),
  )
  return ExitCode.done
}

async function close(client: pg.ClientBase, context: Context, id: string): Promise<ExitCode> {
  const found = await getIncident(client, id)
  if (!found) throw noIncident(id)
  if (!context.json && !found.closedAt) context.out(describe(found))
  if (!(await context.ask('Close it?'))) {
    if (!context.json) context.out('Nothing was changed.')
    return ExitCode.failed
  }
  const { note } = context.flags
  const closed = await closeIncident(client, id, typeof note === 'string' ? note : undefined)
  context.out(context.json ? JSON.stringify(closed) : `Incident ${id} is closed.`)
  return ExitCode.done
}

function listing(found: Incident[]): string {
  const rows = [
    ['id', 'state', 'kind', 'reason', 'stream', 'opened'],
    ...found.map(({ id, kind, reason, stream, openedAt, closedAt }) => [
      id,
      closedAt ? 'closed' : 'open',
      kind,
      reason,
      stream ?? '',
      openedAt.toISOString(),
    ]),
  ]
  return table(rows, { shrink: [4, 3] })
}

function describe(incident: Incident, remedy?: Remedy): string {
  const { id, kind, reason, lineage, stream, eventId, position, detail, row, openedAt } = incident
  const { closedAt, closedBy, resolution } = incident
  const lines: [string, string | null][] = [
    ['incident', `${id}: ${kind}, ${reason}`],
    ['lineage', lineage],
    ['stream', stream],
    ['event', eventId],
    ['position', position],
    ['opened', openedAt.toISOString()],
    ['closed', closedAt && `${closedAt.toISOString()} by ${closedBy}: ${resolution}`],
    ['detail', Object.keys(detail).length > 0 ? JSON.stringify(detail, null, 2) : null],
    ['row', row && JSON.stringify(row, null, 2)],
    ['next', remedy ? describeRemedy(remedy) : null],
  ]
  return lines.flatMap(([name, value]) => (value === null ? [] : [`${name.padEnd(10)}${value}`])).join('\n')
}
