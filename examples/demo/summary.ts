import { paint } from '../../src/cli/output.js'
import type { Differences, Seen } from '../../testkit/oracle/differences.js'
import type { Effects } from './effects.js'
import { format, formatSeconds } from './progress.js'
import type { Tally } from './writer.js'

export interface Outcome {
  differences: Differences
  groups: GroupOutcome[]
  tally: Tally
  /** Milliseconds from sending each COMMIT to the time that Redis gave the entry, ascending. */
  latencies: number[]
  /** From the writers' start to the last entry. */
  seconds: number
  /** How long nothing arrived after each kill of a relay, in milliseconds. */
  takeovers: number[]
}

export interface GroupOutcome {
  name: string
  effects: Effects
  /** Entries that are not acknowledged. */
  pending: number
  /**
   * Deliveries of events that the group had already processed, as its workers counted them. The last 50 ms before each
   * kill are missing.
   */
  duplicates: number
  /** Of its workers. */
  kills: number
}

/**
 * Whether every committed event, and no other, is in its stream once, in order and unaltered, and every group has
 * processed it once.
 */
export function passed({ differences, groups }: Outcome): boolean {
  return isWhole(differences) && groups.length > 0 && groups.every((group) => isDone(group, differences.committed))
}

const isWhole = (differences: Differences): boolean =>
  differences.committed > 0 &&
  differences.published === differences.committed &&
  checks(differences).every(({ found }) => found.length === 0)

const isDone = ({ effects, pending }: GroupOutcome, committed: number): boolean =>
  effects.count === committed && wrong(effects).length === 0 && pending === 0

const wrong = ({ lost, doubled, phantom }: Effects): [string, string][] => [
  ...lost.map((id): [string, string] => [id, 'lost']),
  ...doubled.map((id): [string, string] => [id, 'doubled']),
  ...phantom.map((id): [string, string] => [id, 'phantom']),
]

interface Check {
  name: string
  found: { id: string; stream: string }[]
  /** What it means. */
  text: string
}

function checks(differences: Differences): Check[] {
  return [
    { name: 'lost', found: differences.lost, text: 'committed, and not in its stream' },
    { name: 'duplicated', found: differences.duplicated, text: 'twice in its stream' },
    { name: 'out of order', found: differences.disordered, text: 'before an earlier event of its subject' },
    { name: 'phantom', found: differences.phantom, text: 'in a stream, and never committed' },
    { name: 'altered', found: differences.divergent, text: 'not the bytes that were committed' },
  ]
}

/** How long each event took, ascending. Redis stamps an entry when it appends it, by the clock of this machine. */
export function latenciesOf(seen: Seen[], sent: ReadonlyMap<string, number>): number[] {
  const all = seen.flatMap(({ id, entry }) => {
    const from = sent.get(id)
    return from === undefined ? [] : [Number.parseInt(entry, 10) - from]
  })
  return all.sort((a, b) => a - b)
}

export function describe(outcome: Outcome): string {
  const { differences, groups, tally } = outcome
  const row = (name: string, value: string, text: string, before = ' ') =>
    `${before} ${name.padEnd(13)}${value.padStart(9)}   ${paint('dim', text)}`.trimEnd()
  return [
    row('committed', format(differences.committed), `in ${format(tally.transactions)} transactions`),
    row('rolled back', format(tally.rolledBack), `in ${format(tally.rollbacks)} transactions`),
    row('published', format(differences.published), 'entries in the streams'),
    '',
    ...checks(differences).flatMap(({ name, found, text }) => [
      row(name, format(found.length), text, mark(found.length === 0)),
      ...found.slice(0, 5).map(({ stream, id }) => paint('red', `  ${id} in ${stream}`)),
    ]),
    '',
    ...groups.flatMap((group) => [
      row(
        group.name,
        format(group.effects.count),
        effectsText(group, differences),
        mark(isDone(group, differences.committed)),
      ),
      ...wrong(group.effects)
        .slice(0, 5)
        .map(([id, how]) => paint('red', `  ${id} ${how}`)),
      row('duplicates', format(group.duplicates), "delivered again, found in the inbox, skipped; workers' count"),
      ...(group.kills > 0 ? [row('worker kills', format(group.kills), 'by SIGKILL')] : []),
    ]),
    '',
    ...speed(outcome).map(([name, value, text]) => row(name, value, text)),
    '',
    conclusion(outcome),
  ].join('\n')
}

const mark = (right: boolean): string => (right ? paint('green', '✔') : paint('red', '✘'))

const effectsText = ({ effects, pending }: GroupOutcome, { committed }: Differences): string =>
  `effects of ${format(committed)} events: lost ${format(effects.lost.length)}, doubled ${format(effects.doubled.length)}` +
  (pending > 0 ? `; ${format(pending)} pending` : '')

function conclusion(outcome: Outcome): string {
  if (!isWhole(outcome.differences))
    return paint(['red', 'bold'], 'A check failed: the streams do not hold what was committed.')
  if (!passed(outcome)) return paint(['red', 'bold'], 'A check failed: the effects are not those of the events.')
  return paint(
    ['green', 'bold'],
    'Everything that was committed arrived, once, in order, byte for byte;\nand each group did each event once.',
  )
}

function speed({ differences, tally, latencies, seconds, takeovers }: Outcome): [string, string, string][] {
  const rows: [string, string, string][] = [
    ['latency p50', `${format(percentile(latencies, 0.5))} ms`, 'from sending COMMIT to the entry in the stream'],
    [
      'latency p99',
      `${format(percentile(latencies, 0.99))} ms`,
      takeovers.length > 0 ? 'the same, with the time that takeovers took' : '',
    ],
    [
      'throughput',
      `${format(differences.published / seconds)}/s`,
      `${(tally.bytes / 1e6 / seconds).toFixed(1)} MB/s of payload, as fast as the writers wrote`,
    ],
  ]
  if (takeovers.length === 0) return rows
  const text = `by SIGKILL; nothing arrived for ${formatSeconds(Math.max(...takeovers))} at most`
  return [...rows, ['relay kills', format(takeovers.length), text]]
}

const percentile = (sorted: number[], share: number): number =>
  sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN
