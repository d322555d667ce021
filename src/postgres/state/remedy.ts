import { endInheritance } from '../outbox/published-table.js'
import { parseTable } from '../outbox/table-name.js'
import { endUnlogged, unloggedIn } from '../outbox/unlogged-partitions.js'
import { replacePublication } from '../replication/publication.js'
import { renameBack } from '../setup/rename-back.js'
import type { Incident } from './incident.js'
import type { HaltingReason } from './incident-reasons.js'
import { isRepairable, type RepairPolicy, type RepairState } from './repair-state.js'

/** What leads on from an open incident. Each step works as it is written, one after the other. */
export interface Remedy {
  /** SQL for the owner of the tables, to be run first. */
  sql: string[]
  /** Then these commands. */
  commands: string[]
  /** What the steps do, as the end of a sentence that names them; without steps, the whole sentence. */
  effect: string
  /** What leads on instead. */
  otherwise?: Remedy
}

export type OpenIncident = Pick<Incident, 'id' | 'kind' | 'reason' | 'stream' | 'detail'> & {
  repairMax?: number | null | undefined
}

/**
 * Whether a relay may pass what was written while the publication was missing. Before 18 pgoutput fails at the first row
 * of this database from that time. One such row is the incident itself, unless setup opened it once the publication was
 * there again; whether there are others is not known.
 */
export const canClosePublication = (version: number, detail: object): boolean =>
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

/** Whether anything was written while the publication was missing is not known here. */
const acceptPublication: RemedyFor = (_, close, version) => ({
  sql: [],
  commands: [close],
  effect: decodesWithoutPublication(version)
    ? 'accepts the loss'
    : 'accepts the loss. This version of Postgres cannot decode what was written to any table of this database while the publication was ' +
      'missing: if there is any, a relay that repairs gaps creates a new slot; others halt with `publication_undecodable`, and need `outrider adopt`',
})

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
  publication_changed: (incident, close, version) => {
    const accepted = acceptPublication(incident, close, version)
    const sql = replacementOf(incident.detail)
    return sql.length === 0
      ? accepted
      : { ...accepted, sql, effect: `replaces the publication, and ${accepted.effect}` }
  },
  publication_missing: (incident, close, version) => {
    if (decodesWithoutPublication(version)) {
      return { sql: [], commands: ['outrider setup', close], effect: 'creates the publication, and accepts the loss' }
    }
    return (canClosePublication(version, incident.detail) ? acceptPublication : newLineage)(incident, close, version)
  },
  outbox_renamed: ({ detail }, close) => {
    const sql = namesOf(detail, 'view')
    return {
      sql,
      commands: [close],
      effect:
        sql.length === 0
          ? 'accepts that an earlier version may have skipped rows'
          : 'restores the name, and accepts that earlier versions skipped rows. To keep the new name, only close the incident: the relay then says what to run',
    }
  },
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
      'ends the inheritance, takes those tables out of the publication, and continues. Rows of those tables are not published: insert them into the outbox table',
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

const BY_HAND: RepairPolicy = { repairs: false, mapped: true }

/** `version`: the server's, as `server_version_num`; `policy`: what is repaired, nothing without it. Pure. */
export function remedyOf(incident: OpenIncident, version: number, policy: RepairPolicy = BY_HAND): Remedy {
  const decided = decisionOn(incident, version)
  if (!isRepairable(incident, policy)) return decided
  const repair = repairOf(incident, policy.repairs || typeof incident.repairMax === 'number')
  // Statements that come first in both cases are named once.
  const otherwise = repair.sql.length > 0 ? acceptPublication(incident, closingOf(incident), version) : decided
  return { ...repair, otherwise }
}

/** What a person has to do now: nothing while a repair is under way, or needs no person. */
export function stepsOf(
  { reason }: Pick<Incident, 'reason'>,
  remedy: Remedy,
  repair: RepairState,
): Pick<Remedy, 'sql' | 'commands'> {
  switch (repair.is) {
    case 'running':
    case 'settling':
      return { sql: [], commands: [] }
    case 'blocked':
      // By its own cause: then the steps are those that it needs first.
      return repair.halt.reason === reason ? remedy : { sql: [], commands: repair.halt.commands }
    default:
      return remedy
  }
}

const closingOf = ({ id }: OpenIncident): string => `outrider incidents close ${id}`

/**
 * A publication has to be whole first, which is up to the owner of the tables. `byItself`: the relay need not be asked, or
 * has been.
 */
function repairOf({ id, reason, detail }: OpenIncident, byItself: boolean): Remedy {
  const sql = reason === 'publication_changed' ? replacementOf(detail) : []
  const first = reason === 'publication_missing' ? ['outrider setup'] : []
  const steps = sql.length + first.length > 0
  const made = sql.length > 0 ? 'replaces the publication' : 'creates the publication'
  if (!byItself) {
    const effect = 'has the relay put back from the table what is missing'
    return {
      sql,
      commands: [...first, `outrider incidents repair ${id}`],
      effect: steps ? `${made}, and ${effect}` : effect,
    }
  }
  const effect = 'the relay puts back from the table what is missing, by itself'
  return { sql, commands: first, effect: steps ? `${made}; then ${effect}` : effect }
}

/** What a person does where nothing is put back. */
function decisionOn(incident: OpenIncident, version: number): Remedy {
  const { kind, reason } = incident
  const close = closingOf(incident)
  if (kind === 'rejected' || kind === 'operator') {
    return { sql: [], commands: [close], effect: 'takes it off the list' }
  }
  if (isHalting(reason)) return REMEDIES[reason](incident, close, version)
  // A newer version has opened it: what closing it would mean is not known here.
  return (kind === 'gap' ? newLineage : adoptCopy)(incident, close, version)
}

function namesOf(detail: object, namesake: 'table' | 'view'): string[] {
  const [expected, published] = [textIn(detail, 'expected'), textIn(detail, 'published')]
  if (expected === undefined || published === undefined || expected === published) return []
  const taken = namesake === 'table' || 'view' in detail
  return [renameBack({ expected, published, namesake: taken ? namesake : undefined })]
}

function replacementOf(detail: object): string[] {
  const [publication, table] = [textIn(detail, 'publication'), textIn(detail, 'table')]
  if (publication === undefined || table === undefined || !('omissions' in detail)) return []
  return [replacePublication(publication, parseTable(table))]
}

function inheritanceOf(detail: object): string[] {
  const table = textIn(detail, 'table')
  const children = childrenIn(detail)
  return table === undefined || children.length === 0 ? [] : [endInheritance(table, children)]
}

/** The tables that a gap `outbox_inherited` names. */
export function childrenIn(detail: object): string[] {
  const children: unknown = Reflect.get(detail, 'children')
  return Array.isArray(children) ? children.filter((child) => typeof child === 'string') : []
}

function textIn(detail: object, name: string): string | undefined {
  const value: unknown = Reflect.get(detail, name)
  return typeof value === 'string' ? value : undefined
}

/** For messages: `a`, then `b`: what they do. */
export function describeRemedy({ sql, commands, effect, otherwise }: Remedy): string {
  const steps = [...sql.map((text) => text.replaceAll('\n', ' ')), ...commands]
    .map((step) => `\`${step}\``)
    .join(', then ')
  const sentence = steps === '' ? `${effect[0]?.toUpperCase()}${effect.slice(1)}.` : `${steps}: ${effect}.`
  return otherwise ? `${sentence} Or ${describeRemedy(otherwise)}` : sentence
}
