import { OutriderError } from '../base/failure.js'
import {
  DEAD_FIELDS,
  type DeadLetterEntry,
  letterField,
  type ReplayOutcome,
  type Selection,
} from '../redis/streams/dead-letters.js'
import { printable } from './output.js'
import { cutToWidth, outputWidth, table } from './table.js'

/** What a selection of dead letters holds. Nothing in a letter is trusted: not its length, and not that it is only text. */
export interface Survey {
  count: number
  kinds: { stream: string; group: string; reason: string; count: number }[]
  /** Letters of kinds beyond those. */
  others: number
  /** Which of the ids that were asked for were found. */
  ids: Set<string>
}

const MOST_SHOWN = 20

export function describeKinds({ kinds, others, count }: Survey): string {
  const shown = kinds.slice(0, MOST_SHOWN)
  const rest = kinds.slice(MOST_SHOWN).reduce((sum, kind) => sum + kind.count, others)
  const rows = shown.map((kind) => [String(kind.count), kind.stream, kind.group, kind.reason].map(cell))
  return [
    `${count} dead letter${count === 1 ? '' : 's'}`,
    table([['count', 'stream', 'group', 'reason'], ...rows], { shrink: [1, 2, 3] }),
    ...(rest > 0 ? [`… and ${rest} of other kinds`] : []),
  ].join('\n')
}

/** A letter in a list: three lines, with the ids to be copied at their beginnings. */
export function describeListed(letter: DeadLetterEntry): string {
  const value = (name: string) => letterField(letter, name) ?? ''
  return describeRecord(letter, value('deadtime'), [
    `${value('deadreason')} after ${value('deadattempts')} attempts`,
    value('deaderror'),
  ])
}

/** The same of what waits for its next attempt. */
export function describeWaiting(letter: DeadLetterEntry): string {
  const value = (name: string) => letterField(letter, name) ?? ''
  return describeRecord(letter, `due ${value('waiting-due')}`, [
    `attempt ${value('waiting-attempts')} failed`,
    value('waiting-error'),
  ])
}

function describeRecord(letter: DeadLetterEntry, time: string, [what, error]: [what: string, error: string]): string {
  const { stream, group } = letter.from
  const [id = '', type = '', subject = ''] = ['id', 'type', 'subject'].map((name) => letterField(letter, name))
  const lines = [
    `${cell(id)}  ${cell(type)}  ${cell(subject)}`,
    `  entry ${letter.entry}  ${cell(time)}  ${cell(stream)}  ${cell(group)}`,
    `  ${cell(what)}${error === '' ? '' : `: ${printable(cut(error.split('\n')[0] as string, 200))}`}`,
  ]
  return lines.map((line) => cutToWidth(line.trimEnd(), outputWidth())).join('\n')
}

const cell = (text: string): string => printable(cut(text))

/** A malformed entry may hold anything, of any length. */
export const cut = (text: string, most = 64): string => (text.length > most ? `${text.slice(0, most - 1)}…` : text)

/** For JSON, with texts of at most so many characters. What is null was not in the entry. */
export function factsOf(letter: DeadLetterEntry, most: number): object {
  const value = (name: string) => {
    const found = letterField(letter, name)
    return found === undefined ? null : cut(found, most)
  }
  return {
    stream: letter.from.stream,
    group: letter.from.group,
    entry: letter.entry,
    id: value('id'),
    type: value('type'),
    subject: value('subject'),
    reason: value('deadreason'),
    error: value('deaderror'),
    attempts: /^\d{1,9}$/.test(value('deadattempts') ?? '') ? Number(value('deadattempts')) : null,
    time: value('deadtime'),
    originalEntry: value('deadentry'),
  }
}

/** The same for what waits for its next attempt. */
export function waitingFactsOf(letter: DeadLetterEntry, most: number): object {
  const value = (name: string) => {
    const found = letterField(letter, name)
    return found === undefined ? null : cut(found, most)
  }
  return {
    stream: letter.from.stream,
    group: letter.from.group,
    entry: letter.entry,
    id: value('id'),
    type: value('type'),
    subject: value('subject'),
    error: value('waiting-error'),
    attempts: Number(value('waiting-attempts')),
    due: value('waiting-due'),
    originalEntry: value('waiting-entry'),
  }
}

const OWN: ReadonlySet<string> = new Set(DEAD_FIELDS)
export const originalOf = ({ fields }: DeadLetterEntry) => fields.filter(([name]) => !OWN.has(name))

/** All of it, the payload in full. */
export function describeLetter(letter: DeadLetterEntry): string {
  const lines = [
    ['dead letter', letter.entry],
    ['stream', letter.from.stream],
    ['group', letter.from.group],
    ...letter.fields.filter(([name]) => OWN.has(name)).map(([name, value]) => [NAMES[name] ?? name, value]),
    ...originalOf(letter),
  ]
  return `${lines.map(([name = '', value = '']) => `${cell(name).padEnd(16)} ${indented(value)}`).join('\n')}\n`
}

const NAMES: Record<string, string> = {
  deadreason: 'reason',
  deaderror: 'error',
  deadattempts: 'attempts',
  deadtime: 'died',
  deadentry: 'original entry',
}

/** Lines of a text stay lines, but none can pass for a field. */
const indented = (text: string): string =>
  text
    .split('\n')
    .map(printable)
    .join(`\n${' '.repeat(17)}`)

/** What was done so far, and the word for it; empty where nothing is to be changed. */
export interface Changed extends ReplayOutcome {
  past: string
}

/** The last line of a replay or discard. */
export function summaryOf(count: number, { past, done, gone, kept }: Changed): string {
  if (count === 0) return 'No dead letter is selected.'
  const more = [
    ...(gone > 0 ? [` ${gone} were already gone: someone else replayed or discarded them.`] : []),
    ...(kept > 0
      ? [` ${kept} were left: nothing of the original entry is in them, or more fields than can be moved.`]
      : []),
  ]
  return `${done} of ${count} ${past}.${more.join('')}`
}

/** What stands behind an error. */
export const soFar = ({ past, done }: Changed): string =>
  past === '' ? '' : ` ${done} dead letters were ${past} before; run it again, and it continues with the rest.`

/** Says which of the ids that were asked for were not found. */
export function requireKnown({ ids }: Selection, found: Set<string>): void {
  const unknown = [...(ids ?? [])].filter((id) => !found.has(id))
  if (unknown.length === 0) return
  const named = unknown.slice(0, 10).map((id) => printable(cut(id)))
  throw new OutriderError(
    `Found no selected dead letter with the id ${named.join(', ')}${unknown.length > 10 ? ` and ${unknown.length - 10} more` : ''}: ` +
      `it was replayed or discarded, or never was one. \`outrider dead-letters list\` shows what there is.`,
  )
}
