import { ExitCode } from '../base/failure.js'
import type { RedisClient } from '../redis/client/connect.js'
import {
  type DeadLetterEntry,
  type DeadStream,
  discardDeadLetters,
  findDeadStreams,
  idsOf,
  letterField,
  readDeadLetters,
  replayDeadLetters,
  type Selection,
} from '../redis/streams/dead-letters.js'
import type { Command, Context } from './command.js'
import { requireKnownFilters } from './dead-letter-filters.js'
import {
  type Changed,
  cut,
  describeKinds,
  describeLetter,
  describeListed,
  describeWaiting,
  factsOf,
  originalOf,
  requireKnown,
  type Survey,
  soFar,
  summaryOf,
  waitingFactsOf,
} from './dead-letter-text.js'
import { DiscardRecord } from './discard-record.js'
import { printable, progress } from './output.js'
import { withRedis } from './redis.js'
import { unknownAction, usage } from './usage.js'

const ACTIONS = ['list', 'show', 'replay', 'discard']

export const deadLetters: Command = {
  summary: 'list | show | replay | discard: what consumer groups gave up',
  usage: `outrider dead-letters [list] [<id> …] [--stream …] [--group …] [--type …] [--reason …] [--limit <number>]
outrider dead-letters show <id> …
outrider dead-letters replay [<id> …] [--stream …] [--group …] [--type …] [--reason …] [--all]
outrider dead-letters discard [<id> …] [--stream …] [--group …] [--type …] [--reason …] [--all]

  list      how many there are of each kind, and the oldest of each stream with their error; exit code 4 while there is one. Then
            what waits more than ten minutes for its next attempt, with its due time: it needs nothing
  show      all that is known about one, payload and error included
  replay    put them back into their stream, and remove them from the dead letters; asks first if there are several
  discard   remove them for good; asks first. With OUTRIDER_POSTGRES_URL of the workers' database it records them there as
            finished, so that a repair after a loss of Redis does not bring them back to the group

  <id>      event ids, or ids of dead letters ("entry"); in every stream and group that has it
  --stream  a stream with its partitions, or <stream>:<number> for one of them
  --group, --type, --reason   only letters of this one
  --all     replay or discard whatever there is
  --limit   how many letters list prints (100)

Replay appends the same event, with the same id, to the end of its stream. Every group of the stream gets it again, and each
that has done it skips it by that id. In an ordered group it comes behind what its subject did since. Letters that die again
meanwhile are left for the next time. Replay and discard may be interrupted, run again, and run by two at once: no letter is
put back twice.`,
  examples: [
    ['outrider dead-letters --stream orders --group billing', 'those of one group'],
    ['outrider dead-letters replay --reason attempts_exhausted', 'put those back'],
    ['outrider dead-letters show 019ac0ff-7c1e-7000-8000-000000000001', 'all of one'],
  ],
  docs: 'docs/dead-letters.md',
  unused: ['postgres'],
  options: {
    stream: { type: 'string' },
    group: { type: 'string' },
    type: { type: 'string' },
    reason: { type: 'string' },
    all: { type: 'boolean' },
    limit: { type: 'string' },
  },
  actions: ACTIONS,
  takesArguments: true,
  async run(context) {
    const work = workOf(context)
    const line = progress()
    const changed: Changed = { past: '', done: 0, gone: 0, kept: 0 }
    try {
      return await withRedis(
        context,
        'outrider-dead-letters',
        (client) => work({ ...context, client, line, changed }),
        () => soFar(changed),
      )
    } finally {
      line.clear()
    }
  },
}

interface Work extends Context {
  client: RedisClient
  line: ReturnType<typeof progress>
  changed: Changed
}

const CHANGES = {
  replay: { verb: 'Put back', past: 'put back', json: 'replayed' },
  discard: { verb: 'Discard', past: 'discarded', json: 'discarded' },
} as const

function workOf({ args: [action = 'list', ...ids], flags }: Context): (work: Work) => Promise<ExitCode> {
  const selection = selectionOf(ids, flags)
  if (flags.all === true && !(action in CHANGES))
    throw usage(`--all is for replay and discard, found it with ${action}.`)
  if (flags.limit !== undefined && action !== 'list') throw usage(`--limit is for list, found it with ${action}.`)
  switch (action) {
    case 'list':
      return (work) => list(work, selection, limitOf(flags.limit))
    case 'show':
      if (!selection.ids) throw usage('show: expected the id of an event or of a dead letter, found none.')
      return (work) => show(work, selection)
    case 'replay':
    case 'discard':
      if (Object.keys(selection).length === 0 && flags.all !== true) {
        throw usage(
          `${action}: expected ids, --stream, --group, --type or --reason, found none of them. To ${action} all dead letters of all groups, say --all.`,
        )
      }
      return (work) => change(work, selection, CHANGES[action])
    default:
      throw unknownAction('dead-letters', action, ACTIONS)
  }
}

function selectionOf(ids: string[], flags: Context['flags']): Selection {
  const selection: Selection = {}
  for (const name of ['stream', 'group', 'type', 'reason'] as const) {
    const value = flags[name]
    // As a variable of the shell gives it that was never set.
    if (value === '') throw usage(`--${name}: expected a value, found an empty one.`)
    if (typeof value === 'string') selection[name] = value
  }
  if (ids.includes('')) throw usage('Expected the id of an event or of a dead letter, found an empty one.')
  return ids.length === 0 ? selection : { ...selection, ids: new Set(ids) }
}

function limitOf(value: Context['flags'][string] = '100'): number {
  if (typeof value === 'string' && /^\d{1,7}$/.test(value)) return Number(value)
  throw usage(`--limit: expected a number of letters, up to 9999999, found "${value}".`)
}

async function list(work: Work, selection: Selection, limit: number): Promise<ExitCode> {
  const { json, out } = work
  const streams = await findDeadStreams(work.client, selection)
  const letters: object[] = []
  const rows: string[] = []
  const survey = await look(work, streams, selection, (letter) => {
    if (json && letters.length < limit) letters.push(factsOf(letter, 1000))
    if (!json && rows.length < limit) rows.push(describeListed(letter))
  })
  const { count } = survey
  const waiting = await waitingOf(work, selection, limit)
  if (count + waiting.count === 0) await requireKnownFilters(work.client, selection)
  if (json)
    out(
      printable(
        JSON.stringify({
          count,
          kinds: survey.kinds,
          otherKinds: survey.others,
          more: count - letters.length,
          letters,
          waiting: { count: waiting.count, letters: waiting.letters.map((letter) => waitingFactsOf(letter, 1000)) },
        }),
      ),
    )
  else if (count === 0) out('No dead letter.')
  else {
    const more = count - rows.length
    out(`${describeKinds(survey)}\n`)
    out(rows.join('\n'))
    if (more > 0)
      out(`… and ${more} more; --limit prints more of them, and --stream, --group, --type and --reason fewer.`)
  }
  if (!json && waiting.count > 0) {
    out(`\n${waiting.count} waiting for the next attempt\n`)
    out(waiting.letters.map(describeWaiting).join('\n'))
    if (waiting.count > waiting.letters.length) out(`… and ${waiting.count - waiting.letters.length} more.`)
  }
  requireKnown(selection, new Set([...survey.ids, ...waiting.ids]))
  return count > 0 ? ExitCode.findings : ExitCode.done
}

/** What the selected groups have set aside until its next attempt; the letters up to the limit. A reason selects none of it. */
async function waitingOf({ client }: Work, selection: Selection, limit: number) {
  const found = { count: 0, letters: [] as DeadLetterEntry[], ids: new Set<string>() }
  const streams = await findDeadStreams(client, selection, 'waiting')
  for await (const letter of readDeadLetters(client, streams, selection)) {
    found.count++
    if (found.letters.length < limit) found.letters.push(letter)
    for (const id of idsOf(letter)) if (selection.ids?.has(id)) found.ids.add(id)
  }
  return found
}

async function show(work: Work, selection: Selection): Promise<ExitCode> {
  const { json, out } = work
  const found: object[] = []
  const streams = await findDeadStreams(work.client, selection)
  const { ids } = await look(work, streams, selection, (letter) => {
    if (json)
      found.push({ ...factsOf(letter, Number.POSITIVE_INFINITY), fields: Object.fromEntries(originalOf(letter)) })
    else {
      work.line.clear()
      out(describeLetter(letter))
    }
  })
  if (json) out(printable(JSON.stringify(found)))
  requireKnown(selection, ids)
  return ExitCode.done
}

async function change(
  work: Work,
  selection: Selection,
  how: (typeof CHANGES)[keyof typeof CHANGES],
): Promise<ExitCode> {
  const { client, config, json, out, line, changed } = work
  const streams = await findDeadStreams(client, selection)
  const survey = await look(work, streams, selection)
  const record = new DiscardRecord(config.postgres)
  if (survey.count === 0) await requireKnownFilters(client, selection)
  if (survey.count > 0) {
    if (!json) out(describeKinds(survey))
    const what = survey.count === 1 ? 'this dead letter' : `these ${survey.count} dead letters`
    if ((how === CHANGES.discard || survey.count > 1) && !(await work.ask(`${how.verb} ${what}?`))) {
      if (!json) out('Nothing was changed.')
      return ExitCode.failed
    }
    changed.past = how.past
    const outcomes =
      how === CHANGES.replay
        ? replayDeadLetters(client, streams, selection)
        : discardDeadLetters(client, streams, selection, (letters) => record.add(letters))
    try {
      for await (const { done, gone, kept } of outcomes) {
        changed.done += done
        changed.gone += gone
        changed.kept += kept
        line.show(() => `${changed.done} of ${survey.count} ${how.past}`)
      }
    } finally {
      await record.close()
    }
    line.clear()
  }
  if (json) {
    const { done, gone, kept } = changed
    const recorded = how === CHANGES.discard ? { recorded: record.recorded } : {}
    out(JSON.stringify({ found: survey.count, [how.json]: done, gone, kept, ...recorded }))
  } else {
    if (survey.count > 0 || !selection.ids) out(summaryOf(survey.count, changed))
    if (record.lacks !== undefined) out(notRecorded(record.lacks))
  }
  requireKnown(selection, survey.ids)
  return changed.kept > 0 ? ExitCode.findings : ExitCode.done
}

const notRecorded = (why: string): string =>
  `Not recorded as finished: ${why}. If Redis loses its data, a repair may bring these events back to the group; then discard them again.`

/** Reasons may be anybody's words, one for each letter. */
const MOST_KINDS = 1000

async function look(
  { client, line }: Work,
  streams: DeadStream[],
  selection: Selection,
  each: (letter: DeadLetterEntry) => void = () => {},
): Promise<Survey> {
  const all = streams.reduce((sum, { length }) => sum + length, 0)
  const kinds = new Map<string, Survey['kinds'][number]>()
  const survey = { count: 0, others: 0, ids: new Set<string>() }
  let read = 0
  const letters = readDeadLetters(client, streams, selection, (more) => {
    read += more
    line.show(() => `${read} of ${all} dead letters read`)
  })
  for await (const letter of letters) {
    const { stream, group } = letter.from
    const reason = cut(letterField(letter, 'deadreason') ?? '')
    const key = JSON.stringify([stream, group, reason])
    if (!kinds.has(key) && kinds.size < MOST_KINDS) kinds.set(key, { stream, group, reason, count: 0 })
    const kind = kinds.get(key)
    if (kind) kind.count++
    else survey.others++
    for (const id of idsOf(letter)) if (selection.ids?.has(id)) survey.ids.add(id)
    survey.count++
    each(letter)
  }
  line.clear()
  return { ...survey, kinds: [...kinds.values()].sort((a, b) => b.count - a.count) }
}
