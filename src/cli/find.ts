import { ExitCode, OutriderError } from '../base/failure.js'
import { parseDuration } from '../base/units.js'
import type { SearchKey } from '../status/trace/events.js'
import { findTraces, type Trace, type TraceResult } from '../status/trace/trace.js'
import type { Command, Context } from './command.js'
import { cut } from './dead-letter-text.js'
import { foundJson, foundText, searchedText } from './find-text.js'
import { printable } from './output.js'
import { inboxesOf } from './status.js'

export const find: Command = {
  summary: 'where an event is: by id, subject or correlation id, in outbox, stream, groups, inbox and dead letters',
  usage: `outrider find <event id | subject | correlation id> [--by id|subject|correlation] [--since <duration>] [--inbox <url>] …

One event is shown with each step and its time; by a subject its events, by a correlation id the tree of what caused what, up to
100 of them. Exit code 0 found, 4 found and in trouble (rejected, dead-lettered, not published for 30 s), 1 not found, 3 where
Postgres or Redis cannot be reached: then it shows what the other one knows.

  --by <key>          what it is, where the same text may be several (default: the first of these that finds something)
  --since <duration>  how far back subjects and correlation ids are looked for (1h), where the outbox has no index that begins
                      with the column: outrider setup --index subject,correlation
  --inbox <url>       a workers' database of its own, which says what is done; may be repeated`,
  examples: [
    ['outrider find 019ac0ff-7c1e-7000-8000-000000000001', 'by event id'],
    ['outrider find order-42 --since 7d', 'by subject, of the last week'],
    ['outrider find c-1 --by correlation', 'the tree of a correlation id'],
  ],
  docs: 'docs/status.md#where-is-my-event',
  options: {
    by: { type: 'string' },
    since: { type: 'string' },
    inbox: { type: 'string', multiple: true },
  },
  takesArguments: true,
  async run(context) {
    const { config, json, out } = context
    const term = termOf(context)
    const found = await findTraces({
      ...{ config, term, keys: keysOf(context), sinceMs: sinceOf(context) },
      inboxes: inboxesOf(context.flags),
    })
    if (found.traces.length > 0) out(json ? printable(JSON.stringify(foundJson(found))) : foundText(found, term))
    const failures = [found.search, found.redis].flatMap((asked) => ('failure' in asked ? [asked.failure] : []))
    const [first] = failures
    if (first) {
      const exitCode = failures.find((failure) => failure.exitCode === ExitCode.unreachable)?.exitCode ?? first.exitCode
      throw new OutriderError(failures.map(({ message }) => message).join(' '), { exitCode, cause: first })
    }
    if (found.traces.length === 0) throw notFound(found, term)
    return found.traces.some(isTroubled) ? ExitCode.findings : ExitCode.done
  },
}

function termOf({ args: [term, ...more] }: Context): string {
  if (term !== undefined && term !== '' && more.length === 0) return term
  throw new OutriderError(
    `Expected one event id, subject or correlation id, found ${more.length > 0 ? `"${[term, ...more].join(' ')}"` : 'none'}.`,
    {
      exitCode: ExitCode.usage,
    },
  )
}

const KEYS: readonly SearchKey[] = ['id', 'subject', 'correlation']

function keysOf({ flags: { by } }: Context): readonly SearchKey[] {
  if (by === undefined) return KEYS
  const key = KEYS.find((key) => key === by)
  if (key) return [key]
  throw new OutriderError(`--by: expected ${KEYS.join(', ')}, found "${by}".`, { exitCode: ExitCode.usage })
}

function sinceOf({ flags: { since = '1h' } }: Context): number {
  const found = parseDuration(since)
  if (found) return found
  throw new OutriderError(`--since: expected a duration such as 1h or 7d, found "${since}".`, {
    exitCode: ExitCode.usage,
  })
}

function notFound({ search }: TraceResult, term: string): OutriderError {
  const searched = 'value' in search ? searchedText(search.value) : ''
  return new OutriderError(
    `Found no event with this id, subject or correlation id: ${printable(cut(term))}. ${searched}`.trim(),
  )
}

/** Confirming comes within seconds. */
const LATE_MS = 30_000

const isTroubled = ({ rejected, published, createdAt, groups }: Trace): boolean =>
  rejected !== undefined ||
  (published.state === 'not-yet' && createdAt !== undefined && Date.now() - createdAt.getTime() > LATE_MS) ||
  groups.some(({ outcome }) => outcome?.state === 'dead-lettered')
