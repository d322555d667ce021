import type { AuditProgress } from '../audit/options.js'
import {
  type AuditFinding,
  type AuditRepair,
  type AuditReport,
  hasFindings,
  type StreamReport,
} from '../audit/report.js'
import { printable } from './output.js'
import { table } from './table.js'

const number = (value: number): string => value.toLocaleString('en-US')

const plural = (count: number, one: string, several = `${one}s`): string =>
  `${number(count)} ${count === 1 ? one : several}`

const STEPS: Record<AuditProgress['step'], string> = {
  compare: 'comparing',
  wait: 'waiting until rows without an entry are confirmed',
  'look up': 'looking up differences',
}

export const describeProgress = ({ step, rows, rowsInAll, entries }: AuditProgress): string =>
  `${STEPS[step]}: ${number(rows)} of about ${number(Math.max(rows, rowsInAll))} rows, ${number(entries)} entries`

/** An audit for a person. */
export function describeReport(report: AuditReport): string {
  const { rows, entries, streams, since, passes } = report
  const compared =
    `Compared ${plural(rows, 'row')} with ${plural(entries, 'entry', 'entries')} of ${plural(streams, 'stream')}` +
    `${since ? `, committed since ${since.toISOString()}` : ''}${passes > 1 ? `, in ${passes} readings` : ''}.`
  return [
    compared,
    ...(hasFindings(report) ? describeFindings(report) : ['Nothing is missing, extra or altered.']),
    ...describeNotKnown(report),
  ].join('\n')
}

/** What became of the missing events, for a person. */
export function describeRepair({ request, requested, appended, leftOut, gone, rejected }: AuditRepair): string {
  if (request === null) return 'Nothing is missing, so that nothing is appended.'
  if (appended === null) return `The relay appends ${plural(requested, 'missing event')}: request ${request}.`
  const counts: [number, string][] = [
    [leftOut, 'had their entry, or had left the outbox, when the relay began'],
    [gone, 'left the outbox before their turn'],
    [rejected, 'could not be published, each with an incident: outrider incidents'],
  ]
  return [
    `Appended ${number(appended)} of ${plural(requested, 'missing event')}: request ${request}.`,
    ...counts.filter(([count]) => count > 0).map(([count, text]) => `  ${number(count)}  ${text}`),
  ].join('\n')
}

function describeFindings({ counts, missingAmongTrimmed, findings, affected }: AuditReport): string[] {
  const listed = findings.length
  const all = counts.missing + counts.extra + counts.altered
  return [
    '',
    `missing  ${number(counts.missing)}  rows without an entry`,
    `extra    ${number(counts.extra)}  entries without a row`,
    `altered  ${number(counts.altered)}  entries that differ from their row`,
    ...(missingAmongTrimmed > 0
      ? [`${number(missingAmongTrimmed)} more are missing at least: more rows lack their entry than were trimmed.`]
      : []),
    ...(listed > 0 ? ['', table([HEAD, ...findings.map(rowOf)])] : []),
    ...(all > listed ? [`… and ${number(all - listed)} more; --limit lists more of them.`] : []),
    ...affected.flatMap(describeDeleted),
  ]
}

const HEAD = ['kind', 'stream', 'event', 'created', 'entry', 'differs in']

const rowOf = ({ kind, stream, id, time, entry, fields }: AuditFinding): string[] => [
  kind,
  printable(stream),
  printable(id),
  time?.toISOString() ?? '',
  entry ?? '',
  printable(fields?.join(', ') ?? ''),
]

const describeDeleted = ({ stream, missing, deleted }: StreamReport): string[] =>
  missing > 0 && deleted !== null
    ? [`Entries of stream ${printable(stream)} were removed with XDEL, up to ${deleted} at least.`]
    : []

function describeNotKnown(report: AuditReport): string[] {
  const { notKnown, rejected, repeated, otherSources, confirmed, affected } = report
  const lines: [number, string][] = [
    [notKnown.trimmed, `rows without an entry whose stream was trimmed: ${streamsOf(affected)}`],
    [notKnown.before, "rows without an entry from before the lineage's first checkpoint"],
    [
      notKnown.unconfirmed,
      `rows without an entry that are not confirmed yet${confirmed ? '' : '; the relay did not confirm them within --wait'}`,
    ],
    [notKnown.alien, 'rows without an entry whose txid is above those of this server: copied from another one'],
    [notKnown.undated, 'rows without an entry; without outbox.columns.time they may be older than the lineage'],
    [
      notKnown.rowGone,
      'entries that are older than each row of the table, or than what retention has emptied: their rows are gone',
    ],
    [
      notKnown.republished,
      'entries that were republished: to another stream than their own, or before their row was gone',
    ],
    [rejected, 'rows that were rejected, each with an incident: outrider incidents list --all'],
    [repeated, 'further entries of the same events; consumers skip them by their id'],
    [otherSources, 'entries of other sources'],
  ]
  const shown = lines.filter(([count]) => count > 0)
  if (shown.length === 0) return []
  const width = Math.max(...shown.map(([count]) => number(count).length))
  return ['', 'Not counted as findings', ...shown.map(([count, text]) => `  ${number(count).padStart(width)}  ${text}`)]
}

const MAX_STREAMS = 5

function streamsOf(affected: readonly StreamReport[]): string {
  const trimmed = affected.filter((each) => each.trimmed > 0)
  const names = trimmed.slice(0, MAX_STREAMS).map(({ stream }) => printable(stream))
  const more = trimmed.length - names.length
  return [...names, ...(more > 0 ? [`${more} more`] : [])].join(', ')
}
