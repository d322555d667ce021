import { ExitCode, OutriderError } from '../base/failure.js'
import { type Finding, isBlocker, isOpen } from '../check/finding.js'
import { checkPostgres } from '../check/postgres.js'
import { checkRedis } from '../check/redis.js'
import type { BeforeSetup } from '../check/server.js'
import { connectRedis } from '../redis/client/connect.js'
import type { Command, Context } from './command.js'
import { paint } from './output.js'

export const check: Command = {
  summary: 'preflight: every setting, privilege and limit that matters, with the exact fix',
  usage: `outrider check [--before-setup [--allow-unbounded-wal]]

Looks at Postgres and Redis with the relay's own configuration and role, and changes nothing in either.
Exit code 4 while there is something to fix or to decide; 3 when one of the two cannot be reached.

  --before-setup          only what outrider setup does not bring itself, whether it has run or not; exit code 4 only
                          while there is a blocker, among them WAL without a limit (max_slot_wal_keep_size)
  --allow-unbounded-wal   that one is a warning`,
  examples: [
    ['outrider check --before-setup', 'in a pipeline, before every setup'],
    ['outrider check --json', 'for programs'],
  ],
  docs: 'docs/operations.md',
  options: { 'before-setup': { type: 'boolean' }, 'allow-unbounded-wal': { type: 'boolean' } },
  async run(context) {
    const { config, timeout } = context
    const before = beforeSetup(context)
    const connecting = connectRedis(config.redis, 'outrider-check').then(...settle)
    const postgres = await checkPostgres(config, timeout, before).then(...settle)
    const client = await connecting
    const streams = 'failure' in postgres ? [] : postgres.value.streams
    const redis =
      'failure' in client ? client : await checkRedis(client.value, config, streams, timeout).then(...settle)
    const sections: Section[] = [
      { server: 'postgres', name: 'Postgres', outcome: postgres },
      { server: 'redis', name: 'Redis', outcome: redis },
    ]
    return report(context, sections, before ? isBlocker : isOpen)
  },
}

function beforeSetup({ flags }: Context): BeforeSetup | undefined {
  const allowUnboundedWal = flags['allow-unbounded-wal'] === true
  if (flags['before-setup'] === true) return { allowUnboundedWal }
  if (!allowUnboundedWal) return undefined
  throw new OutriderError(
    '--allow-unbounded-wal: expected --before-setup with it. Without that it is only a warning.',
    {
      exitCode: ExitCode.usage,
    },
  )
}

type Settled<T> = { value: T } | { failure: OutriderError }

/** One part of the report. `server`: its name in JSON; `name`: as a person calls it. */
interface Section {
  server: 'postgres' | 'redis'
  name: string
  outcome: Settled<{ title: string; findings: Finding[] }>
}

const settle = [
  <T>(value: T): Settled<T> => ({ value }),
  (error: unknown): { failure: OutriderError } => {
    if (error instanceof OutriderError) return { failure: error }
    throw error
  },
] as const

function report({ json, out }: Context, sections: Section[], counts: (finding: Finding) => boolean): ExitCode {
  const checked = sections.flatMap(({ server, outcome }) => ('value' in outcome ? [{ server, ...outcome.value }] : []))
  const unchecked = sections.flatMap(({ server, name, outcome }) =>
    'failure' in outcome ? [{ server, name, failure: outcome.failure }] : [],
  )
  const findings = checked.flatMap((section) => section.findings)
  if (json) {
    const data = {
      findings: checked.flatMap(({ server, findings }) => findings.map((finding) => ({ server, ...finding }))),
      unchecked: unchecked.map(({ server, failure }) => ({ server, reason: failure.message })),
    }
    out(JSON.stringify(data))
  } else {
    for (const section of checked) out(describe(section))
    const names = unchecked.map(({ name }) => name)
    out(summary(findings, names))
  }
  if (unchecked.length > 0) throw together(unchecked.map(({ failure }) => failure))
  return findings.some(counts) ? ExitCode.findings : ExitCode.done
}

/** One that cannot be reached may be so only now; that is said first, by the exit code. */
function together(failures: OutriderError[]): OutriderError {
  const exitCode = failures.find(({ exitCode }) => exitCode === ExitCode.unreachable)?.exitCode ?? ExitCode.failed
  return new OutriderError(failures.map(({ message }) => message).join(' '), { exitCode, cause: failures[0] })
}

const SYMBOL = { blocker: ['red', '✗'], warning: ['yellow', '!'], info: ['dim', '·'] } as const
const ORDER = Object.keys(SYMBOL)

function describe({ title, findings }: { title: string; findings: Finding[] }): string {
  const sorted = [...findings].sort((a, b) => ORDER.indexOf(a.level) - ORDER.indexOf(b.level))
  const lines = sorted.map(describeFinding)
  return [
    paint('bold', title),
    ...(sorted.some(isOpen) ? [] : [`  ${paint('green', '✓')} no problem found`]),
    ...lines,
    '',
  ].join('\n')
}

/** What is to be copied stands on lines of its own. */
function describeFinding({ level, id, is, expected, why, fix }: Finding): string {
  const [colour, symbol] = SYMBOL[level]
  if (level === 'info') return `  ${paint(colour, symbol)} ${is}: ${why} ${paint('dim', `[${id}]`)}`
  return [
    `  ${paint(colour, symbol)} ${is} ${paint('dim', `[${id}]`)}`,
    `    Expected: ${expected}; ${why}.`,
    ...fix.flatMap(({ how, text }) => [
      `    ${how}:`,
      ...text.split('\n').map((line) => `      ${paint('cyan', line)}`),
    ]),
  ].join('\n')
}

/** A conclusion needs both servers: with one of them unchecked there is none. */
function summary(findings: Finding[], unchecked: string[]): string {
  const count = (level: Finding['level'], name: string) => {
    const { length } = findings.filter((finding) => finding.level === level)
    return length === 0 ? [] : [`${length} ${name}${length === 1 ? '' : 's'}`]
  }
  const open = [...count('blocker', 'blocker'), ...count('warning', 'warning')]
  const counted = open.length === 0 ? [] : [`${open.join(', ')}.`]
  if (unchecked.length > 0) return [...counted, `Not checked: ${unchecked.join(', ')}.`].join(' ')
  return counted[0] ?? 'Ready.'
}
