import type { Incident } from './incident.js'
import type { HaltingReason } from './incident-reasons.js'
import { endInheritance } from './published-table.js'
import { renameBack } from './rename-back.js'
import { endUnlogged, unloggedIn } from './unlogged-partitions.js'

/** What leads on from an open incident. Each step works as it is written, one after the other. */
export interface Remedy {
  /** SQL for the owner of the tables, to be run first. */
  sql: string[]
  /** Then these commands. */
  commands: string[]
  /** What the steps do, as the end of a sentence that names them. */
  effect: string
}

export type OpenIncident = Pick<Incident, 'id' | 'kind' | 'reason' | 'stream' | 'detail'>

/**
 * Whether a relay can pass what was written while the publication was missing. Before 18 pgoutput fails at the first row
 * of this database from that time. One such row is the incident itself, unless setup opened it once the publication was
 * there again.
 */
export const canPassMissingPublication = (version: number, detail: object): boolean =>
  decodesWithoutPublication(version) || 'found_by' in detail

/**
 * From PostgreSQL 18 on, WAL from while a publication was missing is skipped with a warning; before, the walsender fails
 * there, whatever was created since. https://www.postgresql.org/docs/current/logical-replication-publication.html
 */
export const decodesWithoutPublication = (version: number): boolean => version >= 180_000

const ADOPT = 'outrider adopt'

/** `close`: the command that closes this incident; `version`: the server's, as `server_version_num`. */
type RemedyFor = (incident: OpenIncident, close: string, version: number) => Remedy

const newLineage: RemedyFor = () => ({
  sql: [],
  commands: [ADOPT],
  effect: 'starts a new lineage with a new slot and shows the events that it leaves out',
})

const closing =
  (effect: string): RemedyFor =>
  (_, close) => ({ sql: [], commands: [close], effect })

const acceptLoss = closing('accepts the loss')

const adoptCopy: RemedyFor = () => ({
  sql: [],
  commands: [ADOPT],
  effect: 'starts a new lineage if this copy is meant to publish; otherwise stop this relay',
})

const REMEDIES: Record<HaltingReason, RemedyFor> = {
  slot_missing: newLineage,
  slot_lost: newLineage,
  slot_ahead: acceptLoss,
  stream_behind: acceptLoss,
  publication_changed: acceptLoss,
  publication_missing: (incident, close, version) =>
    canPassMissingPublication(version, incident.detail)
      ? { sql: [], commands: ['outrider setup', close], effect: 'creates the publication, and accepts the loss' }
      : newLineage(incident, close, version),
  outbox_renamed: ({ detail }, close) => ({
    sql: namesOf(detail, 'view'),
    commands: [close],
    effect:
      'restores the name, and accepts that earlier versions skipped rows. To keep the new name, only close the incident: the relay then says what to run',
  }),
  outbox_replaced: ({ detail }, close) => ({
    sql: namesOf(detail, 'table'),
    commands: [close],
    effect:
      'restores both names, and continues. Rows that only the other table has are not published: insert them again',
  }),
  outbox_inherited: ({ detail }, close) => ({
    sql: inheritanceOf(detail),
    commands: [close],
    effect:
      'ends the inheritance, and continues. Rows of those tables are not published: insert them into the outbox table',
  }),
  outbox_unlogged: ({ detail }, close) => ({
    sql: [endUnlogged(unloggedIn(detail))].filter((text) => text !== ''),
    commands: [close],
    effect:
      'lets their rows be published from now on, and continues. Rows that were inserted into them meanwhile are not published: insert them again',
  }),
  outbox_foreign_rows: closing('skips all rows of that table'),
  system_id: adoptCopy,
  timeline: adoptCopy,
  session_unknown: adoptCopy,
  wal_beyond: adoptCopy,
  diverged: adoptCopy,
}

const isHalting = (reason: string): reason is HaltingReason => Object.hasOwn(REMEDIES, reason)

/** `version`: the server's, as `server_version_num`. Pure. */
export function remedyOf(incident: OpenIncident, version: number): Remedy {
  const { id, kind, reason } = incident
  const close = `outrider incidents close ${id}`
  if (kind === 'rejected' || kind === 'operator') {
    return { sql: [], commands: [close], effect: 'takes it off the list' }
  }
  if (isHalting(reason)) return REMEDIES[reason](incident, close, version)
  // A newer version has opened it: what closing it would mean is not known here.
  return (kind === 'gap' ? newLineage : adoptCopy)(incident, close, version)
}

function namesOf(detail: object, namesake: 'table' | 'view'): string[] {
  const [expected, published] = [textIn(detail, 'expected'), textIn(detail, 'published')]
  if (expected === undefined || published === undefined) return []
  const taken = namesake === 'table' || 'view' in detail
  return [renameBack({ expected, published, namesake: taken ? namesake : undefined })]
}

function inheritanceOf(detail: object): string[] {
  const table = textIn(detail, 'table')
  const children: unknown = Reflect.get(detail, 'children')
  if (table === undefined || !Array.isArray(children)) return []
  return [
    endInheritance(
      table,
      children.filter((child) => typeof child === 'string'),
    ),
  ]
}

function textIn(detail: object, name: string): string | undefined {
  const value: unknown = Reflect.get(detail, name)
  return typeof value === 'string' ? value : undefined
}

/** For messages: `a`, then `b`: what they do. */
export const describeRemedy = ({ sql, commands, effect }: Remedy): string =>
  `${[...sql.map((text) => text.replaceAll('\n', ' ')), ...commands].map((step) => `\`${step}\``).join(', then ')}: ${effect}.`
