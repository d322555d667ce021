import type pg from 'pg'
import { ExitCode, OutriderError } from '../base/failure.js'
import { OWN_OUTBOX } from '../config/schema.js'
import { STREAM_NAME, UUID } from '../event/names.js'
import { inTransaction } from '../postgres/client/transaction.js'
import type { RowFilter } from '../postgres/outbox/row-filter.js'
import { countNamed, countSelected, knownStreams, type SelectedRows } from '../postgres/outbox/selected-rows.js'
import type { Lineage } from '../postgres/state/lineage.js'
import {
  addRequestedEvents,
  cancelRequest,
  openRequest,
  type RequestArguments,
  readRequest,
  releaseRequest,
} from '../postgres/state/requests.js'
import { plural } from '../status/format.js'
import type { Command, Context } from './command.js'
import { withDatabase } from './database.js'
import { lineageOf } from './lineage.js'
import { printable } from './output.js'
import { awaitRequest, codeOf, describeDone } from './request-wait.js'
import { sinceOf } from './since.js'
import { table } from './table.js'
import { unknownFilter, usage } from './usage.js'

export const republish: Command = {
  summary: 'append rows of the outbox to their streams again, under their own ids',
  usage: `outrider republish --ids <id>,… [--to <stream>]
outrider republish [--since <time>] [--stream <name>] [--type <type>] [--to <stream>]
outrider republish --cancel <request>

Selects rows of the outbox, and has the relay append each of them once more, in the order of inserting, while it publishes.
Consumers that have done an event skip it by its id. The rows are those that are committed when the relay begins. Each is
appended once for each request, also if relays, Redis or Postgres are killed meanwhile.

  --ids <id>,…        these events; may be given several times
  --since <time>      rows whose created_at is not before: a duration such as 24h, or a time such as 2026-11-29T08:00:00Z
  --stream <name>     rows of this stream, with all of its partitions
  --type <type>       rows of this type
  --to <stream>       append them to this stream, not to their own
  --dry-run           count the rows, and change nothing
  --no-wait           print the number of the request, and leave the rest to the relay
  --cancel <request>  end a request; what was appended by then stays`,
  examples: [
    ['outrider republish --stream orders --since 2h --dry-run', 'how many rows that are'],
    ['outrider republish --stream orders --since 2h', 'append them again'],
    ['outrider republish --type order.placed --to replay', 'for one new consumer alone'],
  ],
  docs: 'docs/audit.md#republish',
  unused: ['redis'],
  options: {
    ids: { type: 'string', multiple: true },
    since: { type: 'string' },
    stream: { type: 'string' },
    type: { type: 'string' },
    to: { type: 'string' },
    'dry-run': { type: 'boolean' },
    'no-wait': { type: 'boolean' },
    cancel: { type: 'string' },
  },
  async run(context) {
    const asked = askedOf(context)
    return withDatabase(context, 'outrider republish', async (postgres) => {
      const lineage = await lineageOf(postgres, context)
      if ('cancel' in asked) return cancel(context, postgres, lineage, asked.cancel)
      requireOwnOutbox(context)
      return request(context, postgres, lineage, asked)
    })
  },
}

interface Asked {
  ids: string[]
  filter: RowFilter
  to: string | undefined
}

function askedOf({ flags }: Context): Asked | { cancel: string } {
  const { stream, type, to, since, cancel } = flags
  const ids = ((flags.ids ?? []) as string[]).flatMap((list) => list.split(',')).map((id) => id.trim().toLowerCase())
  const selects = [ids.length > 0, since, stream, type].filter((each) => each !== undefined && each !== false)
  if (cancel !== undefined) {
    if (selects.length > 0 || to !== undefined) throw usage('Expected --cancel alone, found a selection as well.')
    if (!/^\d{1,18}$/.test(String(cancel)))
      throw usage(`--cancel: expected the number of a request, found "${cancel}".`)
    return { cancel: String(cancel) }
  }
  if (selects.length === 0) throw usage('Expected --ids, --since, --stream or --type, found none of them.')
  if (ids.length > 0 && selects.length > 1) throw usage('Expected --ids, or --since, --stream and --type; found both.')
  const wrong = ids.find((id) => !UUID.test(id))
  if (wrong !== undefined) throw usage(`--ids: expected ids of events, which are UUIDs, found "${printable(wrong)}".`)
  for (const [option, name] of Object.entries({ stream, to })) {
    if (name === undefined || STREAM_NAME.test(String(name))) continue
    throw usage(`--${option}: expected the name of a stream, found "${printable(String(name))}".`)
  }
  if (type !== undefined && type === '') throw usage('--type: expected a type, found nothing.')
  return {
    ids: [...new Set(ids)],
    filter: { since: sinceOf(since), stream: text(stream), type: text(type) },
    to: text(to),
  }
}

const text = (value: Context['flags'][string]): string | undefined => (value === undefined ? undefined : String(value))

export function requireOwnOutbox({ config }: Pick<Context, 'config'>): void {
  if (config.outbox.table === OWN_OUTBOX.table) return
  throw new OutriderError(
    `Expected the outbox ${OWN_OUTBOX.table}, found ${config.outbox.table}: rows of a mapped table cannot be appended again. ` +
      'Insert the events again, under their own ids.',
  )
}

async function request(context: Context, postgres: pg.Client, lineage: Lineage, asked: Asked): Promise<ExitCode> {
  const { flags, json, out } = context
  const selected = await select(postgres, lineage, asked)
  const rows = selected.reduce((sum, each) => sum + each.rows, 0)
  const isDry = flags['dry-run'] === true
  if (isDry && json) out(printable(JSON.stringify({ rows, to: asked.to ?? null, selected })))
  else if (!json) out(describeSelected(selected, rows, asked.to))
  if (isDry) return ExitCode.done
  if (rows === 0) {
    if (json) out(JSON.stringify({ request: null, rows }))
    return ExitCode.done
  }
  if (asked.ids.length === 0 && !(await context.ask(`Append ${rows === 1 ? 'it' : 'them'} again?`))) {
    if (!json) out('Nothing was requested.')
    return ExitCode.failed
  }
  const id = await record(postgres, lineage, asked)
  if (flags['no-wait'] === true) {
    out(json ? JSON.stringify({ request: id, rows }) : `The relay executes request ${id}.`)
    return ExitCode.done
  }
  const done = await awaitRequest(context, postgres, lineage, id)
  out(json ? printable(JSON.stringify(done)) : describeDone(done))
  return codeOf(done)
}

async function select(postgres: pg.Client, { lineage }: Lineage, { ids, filter }: Asked): Promise<SelectedRows[]> {
  if (ids.length > 0) {
    const { selected, absent } = await countNamed(postgres, ids)
    if (absent.length === 0) return selected
    const shown = `${absent.slice(0, 5).join(', ')}${absent.length > 5 ? ` and ${absent.length - 5} more` : ''}`
    throw new OutriderError(
      `Expected rows of all events in outrider.outbox, found none of ${shown}. Retention has emptied them, or the ids are wrong; ` +
        '`outrider find <id>` looks everywhere. Nothing was requested: leave them out, and run it again.',
    )
  }
  const selected = await countSelected(postgres, lineage, filter)
  if (selected.length === 0) await requireKnown(postgres, lineage, filter)
  return selected
}

/** A filter that selects nothing because it is mistyped must not look like a result. */
async function requireKnown(postgres: pg.Client, lineage: string, { type, ...others }: RowFilter): Promise<void> {
  const { stream } = others
  if (stream !== undefined) {
    const known = await knownStreams(postgres, lineage)
    if (!known.includes(stream)) throw unknownFilter('stream', stream, known)
  }
  if (type === undefined) return
  const types = (await countSelected(postgres, lineage, others)).map((each) => each.type)
  if (types.length > 0) throw unknownFilter('type', type, types)
}

const record = (postgres: pg.Client, { lineage }: Lineage, { ids, filter, to }: Asked): Promise<string> =>
  inTransaction(postgres, async () => {
    const id = await openRequest(postgres, lineage, 'republish')
    const events = ids.map((event) => [event, ''] as const)
    await addRequestedEvents(postgres, id, events)
    const named: RequestArguments = ids.length > 0 ? { ids: ids.length } : filter
    await releaseRequest(postgres, id, to === undefined ? named : { ...named, to })
    return id
  })

const HEAD = ['stream', 'type', 'rows', 'oldest', 'newest']

function describeSelected(selected: readonly SelectedRows[], rows: number, to: string | undefined): string {
  if (rows === 0) return 'No row of the outbox is selected.'
  const lines = selected.map((each) => [
    ...[printable(each.stream), printable(each.type), String(each.rows)],
    ...[each.oldest.toISOString(), each.newest.toISOString()],
  ])
  const where = to === undefined ? 'to their streams' : `to stream ${to}`
  return `${table([HEAD, ...lines], { right: [2] })}\n\n${plural(rows, 'row')} would be appended ${where} again.`
}

async function cancel(
  { json, out }: Context,
  postgres: pg.Client,
  { lineage }: Lineage,
  id: string,
): Promise<ExitCode> {
  const isCancelled = await inTransaction(postgres, () => cancelRequest(postgres, lineage, id))
  const found = await readRequest(postgres, lineage, id)
  if (!found) throw new OutriderError(`Expected a request of this lineage, found none with the number ${id}.`)
  if (!isCancelled) throw new OutriderError(`Request ${id} has ended before: it is ${found.state}.`)
  out(
    json
      ? printable(JSON.stringify(found))
      : `Request ${id} is cancelled: ${plural(found.appended, 'event')} appended by then.`,
  )
  return ExitCode.done
}
