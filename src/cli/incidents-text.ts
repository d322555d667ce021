import type { Incident, IncidentStream } from '../postgres/state/incident.js'
import { describeConsequence, describeFinding } from '../postgres/state/incident-text.js'
import { describeRemedy, type Remedy } from '../postgres/state/remedy.js'
import type { RepairState } from '../postgres/state/repair-state.js'
import { count, plural } from '../status/format.js'
import { describeRepair } from '../status/repair-text.js'
import { printable } from './output.js'
import { table } from './table.js'

/** An incident, and where its repair is. */
export interface ListedIncident {
  incident: Incident
  repair: RepairState
}

const STATES: Partial<Record<RepairState['is'], string>> = {
  running: 'repairing',
  blocked: 'blocked',
  settling: 'settling',
}

/** A table of incidents, and sentences for each reason of those that are open. */
export function incidentsText(found: readonly ListedIncident[]): string {
  const rows = [
    ['id', 'state', 'kind', 'reason', 'stream', 'opened'],
    ...found.map(({ incident, repair }) => [
      incident.id,
      incident.closedAt ? 'closed' : (STATES[repair.is] ?? 'open'),
      incident.kind,
      incident.reason,
      printable(streamsOf(incident)),
      incident.openedAt.toISOString(),
    ]),
  ]
  const open = found.filter(({ incident }) => incident.closedAt === null)
  // The first of a reason is the newest.
  const newest = new Map(open.toReversed().map((each) => [`${each.incident.kind} ${each.incident.reason}`, each]))
  const sentences = [...newest.values()].map(({ incident, repair }) =>
    [
      `${incident.reason}: ${describeFinding(incident)}`,
      describeConsequence(incident, repair.is),
      ...[describeRepair(repair)].filter((text) => text !== undefined),
      `Next: \`outrider incidents show ${incident.id}\`.`,
    ].join(' '),
  )
  return [table(rows, { shrink: [4, 3] }), ...sentences].join('\n')
}

function streamsOf({ stream, streams }: Incident): string {
  const name = stream ?? streams.first[0]?.key ?? ''
  return streams.count > 1 ? `${name} and ${count(streams.count - 1)} more` : name
}

/** What leads on from an open incident, and where its repair is. */
export interface IncidentOutlook {
  repair: RepairState
  /** Undefined: not to be said. */
  remedy?: Remedy
}

/** One incident: sentences first, then its facts, one a line. */
export function incidentText(incident: Incident, outlook?: IncidentOutlook): string {
  const { id, kind, reason, lineage, stream, eventId, position, detail, row, openedAt } = incident
  const { closedAt, closedBy, resolution, repairedAt, repairMax } = incident
  const lines: [string, string | null][] = [
    ['incident', `${id}: ${kind}, ${reason}`],
    ['found', describeFinding(incident)],
    ['means', closedAt ? null : describeConsequence(incident, outlook?.repair.is)],
    ['next', outlook?.remedy ? describeNext(outlook.remedy, outlook.repair) : null],
    ['opened', openedAt.toISOString()],
    ['repaired', repairedAt?.toISOString() ?? null],
    ['closed', closedAt && `${closedAt.toISOString()} by ${closedBy}: ${resolution}`],
    ['permitted', repairMax === null ? null : `a repair of at most ${plural(repairMax, 'event')}`],
    ['lineage', lineage],
    ['stream', stream && printable(stream)],
    ...(stream === null ? streamLines(incident) : []),
    ['event', eventId && printable(eventId)],
    ['position', position],
    ...factsOf('detail', detail),
    ...factsOf('row', row),
  ]
  const width = Math.max(...lines.map(([name, value]) => (value === null ? 0 : name.length))) + 2
  return lines.flatMap(([name, value]) => (value === null ? [] : [`${name.padEnd(width)}${value}`])).join('\n')
}

function describeNext(remedy: Remedy, repair: RepairState): string {
  const said = describeRepair(repair)
  if (said === undefined) return describeRemedy(remedy)
  if (repair.is === 'settling') return said
  const { otherwise } = remedy
  if (!otherwise || otherwise.commands.every((command) => said.includes(`\`${command}\``))) return said
  return `${said} Or ${describeRemedy(otherwise)}`
}

function streamLines({ streams: { count: number, first } }: Incident): [string, string][] {
  if (number === 0) return []
  const left = number - first.length
  return [
    ['streams', count(number)],
    ...first.map((stream): [string, string] => ['stream', describeStream(stream)]),
    ...(left > 0 ? [['stream', `… and ${count(left)} more`] as [string, string]] : []),
  ]
}

/** What a stream has lost, as far as it is known. */
function describeStream({ key, detail }: IncidentStream): string {
  const { events, after, until, message } = Object.fromEntries(Object.entries(detail)) as Record<string, unknown>
  const facts = [
    ...(typeof events === 'number' ? [`at most ${plural(events, 'event')}`] : []),
    ...(typeof until === 'string'
      ? [`appended ${typeof after === 'string' ? `after ${after} and ` : ''}until ${until}`]
      : []),
    ...(typeof message === 'string' ? [message] : []),
  ]
  return printable(facts.length === 0 ? key : `${key}: ${facts.join(', ')}`)
}

/**
 * Each value of an object with its path, as `detail.found.position`. Producers wrote some of them: what would move the cursor, or
 * begin a line of its own, is escaped.
 */
function factsOf(path: string, value: unknown): [string, string][] {
  if (value === null || value === undefined) return []
  if (typeof value !== 'object') return [[path, printable(String(value))]]
  if (Array.isArray(value) && value.every((item) => typeof item !== 'object')) {
    return value.length === 0 ? [] : [[path, printable(value.join(', '))]]
  }
  return Object.entries(value).flatMap(([name, inner]) => factsOf(`${path}.${printable(name)}`, inner))
}
