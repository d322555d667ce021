import { paint } from '../../src/cli/output.js'
import type { Seen, Verdict } from '../../test/oracle/verdict.js'
import { format, formatSeconds } from './progress.js'
import type { Tally } from './writer.js'

export interface Outcome {
  verdict: Verdict
  tally: Tally
  /** Milliseconds from sending each COMMIT to the time that Redis gave the entry, ascending. */
  latencies: number[]
  /** From the writers' start to the last entry. */
  seconds: number
  /** How long nothing arrived after each kill of a relay, in milliseconds. */
  takeovers: number[]
}

/** Whether everything that was committed is in its stream, once, in order, unaltered, and nothing else. */
export function passed(verdict: Verdict): boolean {
  return (
    verdict.committed > 0 &&
    verdict.published === verdict.committed &&
    checks(verdict).every(({ found }) => found.length === 0)
  )
}

interface Check {
  name: string
  found: { id: string; stream: string }[]
  /** What it means. */
  text: string
}

function checks(verdict: Verdict): Check[] {
  return [
    { name: 'lost', found: verdict.lost, text: 'committed, and not in its stream' },
    { name: 'duplicated', found: verdict.duplicated, text: 'twice in its stream' },
    { name: 'out of order', found: verdict.disordered, text: 'before an earlier event of its subject' },
    { name: 'phantom', found: verdict.phantom, text: 'in a stream, and never committed' },
    { name: 'altered', found: verdict.divergent, text: 'not the bytes that were committed' },
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
  const { verdict, tally } = outcome
  const row = (name: string, value: string, text: string, mark = ' ') =>
    `${mark} ${name.padEnd(13)}${value.padStart(9)}   ${paint('dim', text)}`.trimEnd()
  return [
    row('committed', format(verdict.committed), `in ${format(tally.transactions)} transactions`),
    row('rolled back', format(tally.rolledBack), `in ${format(tally.rollbacks)} transactions`),
    row('published', format(verdict.published), 'entries in the streams'),
    '',
    ...checks(verdict).flatMap(({ name, found, text }) => [
      row(name, format(found.length), text, found.length === 0 ? paint('green', '✔') : paint('red', '✘')),
      ...found.slice(0, 5).map(({ stream, id }) => paint('red', `  ${id} in ${stream}`)),
    ]),
    '',
    ...speed(outcome).map(([name, value, text]) => row(name, value, text)),
    '',
    passed(verdict)
      ? paint(['green', 'bold'], 'Everything that was committed arrived: once, in order, byte for byte.')
      : paint(['red', 'bold'], 'A check failed: the streams do not hold what was committed.'),
  ].join('\n')
}

function speed({ verdict, tally, latencies, seconds, takeovers }: Outcome): [string, string, string][] {
  const rows: [string, string, string][] = [
    ['latency p50', `${format(percentile(latencies, 0.5))} ms`, 'from sending COMMIT to the entry in the stream'],
    [
      'latency p99',
      `${format(percentile(latencies, 0.99))} ms`,
      takeovers.length > 0 ? 'the same, with the time that takeovers took' : '',
    ],
    [
      'throughput',
      `${format(verdict.published / seconds)}/s`,
      `${(tally.bytes / 1e6 / seconds).toFixed(1)} MB/s of payload, as fast as the writers wrote`,
    ],
  ]
  if (takeovers.length === 0) return rows
  const text = `by SIGKILL; nothing arrived for ${formatSeconds(Math.max(...takeovers))} at most`
  return [...rows, ['kills', format(takeovers.length), text]]
}

const percentile = (sorted: number[], share: number): number =>
  sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN
