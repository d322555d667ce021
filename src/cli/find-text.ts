import { ago, formatDuration, plural } from '../status/format.js'
import type { EventSearch } from '../status/trace/events.js'
import type { Outcome } from '../status/trace/outcomes.js'
import type { Trace, TraceResult } from '../status/trace/trace.js'
import { cut } from './dead-letter-text.js'
import { printable } from './output.js'
import { cutToWidth, outputWidth, wrap } from './table.js'

/** One event with each step; of several the tree. */
export function foundText(found: TraceResult, term: string): string {
  const search = 'value' in found.search ? found.search.value : undefined
  const [first, ...others] = found.traces
  const lines =
    first && others.length === 0 && search?.by !== 'subject' && search?.by !== 'correlation'
      ? traceLines(first, found)
      : listLines(found.traces, search, term)
  const notes = [
    ...(found.outsideOutbox ? ['Found in its stream alone: the outbox has no such row, or was not asked.'] : []),
    ...(search?.by !== 'id' && search ? [searchedText(search)].filter((text) => text !== '') : []),
    ...found.inbox.problems.map(({ place, problem }) => `Inbox at ${place} not asked: ${problem}.`),
  ]
  return [...lines, ...(notes.length > 0 ? ['', ...notes.map((note) => wrap(printable(note)))] : [])].join('\n')
}

/** What was looked at, where it was not everything. */
export function searchedText(search: EventSearch | undefined): string {
  if (!search) return ''
  const { since, complete, more } = search
  return [
    ...(since
      ? [`Rows since ${since.toISOString()} were searched, without an index; --since looks further back.`]
      : []),
    ...(complete ? [] : ['The search took too long and was given up: an index on the column makes it fast.']),
    ...(more ? ['There are more: these are the newest.'] : []),
  ].join(' ')
}

const NAME = 12

function line(name: string, text: string): string {
  const label = cutToWidth(printable(name), 30).padEnd(NAME)
  const width = Math.max(20, outputWidth() - NAME - 1)
  return `${label} ${wrap(printable(text), width).replaceAll('\n', `\n${' '.repeat(NAME + 1)}`)}`
}

function traceLines(trace: Trace, { inbox }: TraceResult): string[] {
  const { id, type, key, subject, correlationId, causationId, createdAt } = trace
  return [
    line('event', `${id}  ${cut(type)}`),
    line('stream', `${key}${subject === undefined ? '' : `, subject ${cut(subject)}`}`),
    ...(correlationId === undefined ? [] : [line('correlation', cut(correlationId))]),
    ...(causationId === undefined ? [] : [line('caused by', cut(causationId))]),
    ...(createdAt ? [line('inserted', `${createdAt.toISOString()}, ${ago(Date.now() - createdAt.getTime())}`)] : []),
    line('published', publishedText(trace)),
    ...trace.groups.map((group) => line(group.group, groupText(group, inbox.asked))),
    ...(trace.groups.length === 0 && trace.published.state === 'entry'
      ? [line('groups', 'none read this stream')]
      : []),
    ...nextOf(trace).map((step) => `${' '.repeat(NAME + 1)}${printable(step)}`),
  ]
}

function publishedText({ rejected, published, proven }: Trace): string {
  if (rejected) return `rejected (${rejected.reason}) at ${rejected.at.toISOString()}: incident ${rejected.incident}`
  switch (published.state) {
    case 'entry':
      return `${published.at.toISOString()} as entry ${published.entry}`
    case 'trimmed':
      return 'yes; its entry was removed from the stream since'
    case 'not-yet':
      return 'not yet'
    case 'unknown':
      return `${proven ? 'yes; ' : ''}its entry was not looked for, or not found in time`
  }
}

function groupText({ done, outcome }: Trace['groups'][number], asked: readonly string[]): string {
  if (done) {
    const left = outcome && PENDING.has(outcome.state) ? '; not yet acknowledged' : ''
    return `done ${done.at.toISOString()} (inbox ${done.place})${left}`
  }
  if (!outcome) return 'not known: Redis has no such group, or was not asked'
  return outcomeText(outcome, asked)
}

const PENDING: ReadonlySet<Outcome['state']> = new Set(['delivered', 'backoff'])

function outcomeText(outcome: Outcome, asked: readonly string[]): string {
  const failing = (since: number | undefined) =>
    since === undefined ? '' : `, failing for ${formatDuration(Date.now() - since)}`
  const next = (at: number | undefined) =>
    at === undefined ? '' : `, next attempt ${at > Date.now() ? `in ${formatDuration(at - Date.now())}` : 'now'}`
  switch (outcome.state) {
    case 'unread':
      return `unread${outcome.before === undefined ? '' : `; the group has ${plural(outcome.before, 'entry', 'entries')} to read`}`
    case 'delivered':
      return `with ${outcome.worker || 'no worker'}, last heard ${ago(outcome.idleMs)}; ${plural(outcome.deliveries, 'delivery', 'deliveries')}`
    case 'backoff':
      return `attempt ${outcome.failed} failed${failing(outcome.since)}${next(outcome.next)}; with ${outcome.worker || 'no worker'}`
    case 'waiting': {
      const error = outcome.error === undefined ? '' : `: ${cut(firstLine(outcome.error), 200)}`
      return `waiting: attempt ${outcome.failed} failed${failing(outcome.since)}${next(outcome.next)}${error}`
    }
    case 'dead-lettered':
      return `dead-lettered ${outcome.at} as ${outcome.reason}, after ${plural(outcome.attempts, 'failed attempt')}: ${cut(firstLine(outcome.error), 200)}`
    case 'settled':
      return `acknowledged; ${asked.length === 0 ? 'inbox not asked' : 'no inbox row: removed since, skipped, or a handler with a key'}`
    case 'gone':
      return asked.length === 0 ? 'not known: inbox not asked' : 'no inbox row'
    case 'unknown':
      return `not known: ${outcome.why}`
  }
}

const firstLine = (text: string): string => text.split('\n')[0] as string

/** The commands that lead on. */
function nextOf({ id, rejected, published, groups }: Trace): string[] {
  if (rejected) return [`outrider incidents show ${rejected.incident}`]
  if (published.state === 'not-yet') return ['outrider status']
  const dead = groups.some(({ outcome }) => outcome?.state === 'dead-lettered')
  return dead ? [`outrider dead-letters show ${id}`] : []
}

/** A line for an event and one for its groups; what an event caused is indented below it. */
function listLines(traces: readonly Trace[], search: EventSearch | undefined, term: string): string[] {
  const ids = new Set(traces.map(({ id }) => id))
  const roots = traces.filter(
    ({ id, causationId }) => causationId === undefined || causationId === id || !ids.has(causationId),
  )
  const shown = new Set<string>()
  const lines = (trace: Trace, depth: number): string[] => {
    if (shown.has(trace.id)) return []
    shown.add(trace.id)
    const caused = traces.filter(({ causationId }) => causationId === trace.id)
    return [...eventLines(trace, depth), ...caused.flatMap((each) => lines(each, depth + 1))]
  }
  const title = `${printable(cut(term))} is the ${search?.by === 'subject' ? 'subject' : 'correlation id'} of ${traces.length} events`
  // Those that cause each other have no root.
  return [title.replace(/ 1 events$/, ' 1 event'), ...[...roots, ...traces].flatMap((trace) => lines(trace, 0))]
}

const MAX_DEPTH = 8

function eventLines(trace: Trace, depth: number): string[] {
  const indent = '  '.repeat(Math.min(depth, MAX_DEPTH))
  const { id, type, key, createdAt, published, rejected, groups } = trace
  const state = rejected
    ? `rejected, incident ${rejected.incident}`
    : published.state === 'entry'
      ? 'published'
      : published.state
  const steps = groups.map(({ group, done, outcome }) => `${group} ${done ? 'done' : (outcome?.state ?? 'not known')}`)
  const width = outputWidth()
  return [
    cutToWidth(printable(`${indent}${id}  ${cut(type, 40)}`), width),
    cutToWidth(
      printable(`${indent}  ${createdAt?.toISOString() ?? ''} ${key}: ${[state, ...steps].join(', ')}`),
      width,
    ),
  ]
}

/** The same for programs. */
export function foundJson({ search, traces, inbox, redis, outsideOutbox }: TraceResult): object {
  const found = 'value' in search ? search.value : undefined
  return {
    by: found?.by ?? 'id',
    searchedSince: found?.since?.toISOString() ?? null,
    searchComplete: found?.complete ?? false,
    more: found?.more ?? false,
    inOutbox: !outsideOutbox,
    redis: 'failure' in redis ? { unreachable: redis.failure.message } : 'asked',
    inboxes: inbox,
    events: traces.map(({ proven, createdAt, groups, ...rest }) => ({
      ...rest,
      insertedAt: createdAt?.toISOString() ?? null,
      groups: groups.map(({ group, done, outcome }) => ({
        group,
        state: done ? 'done' : (outcome?.state ?? 'unknown'),
        doneAt: done?.at.toISOString() ?? null,
        inbox: done?.place ?? null,
        detail: outcome ?? null,
      })),
    })),
  }
}
