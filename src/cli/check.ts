import { type Finding, isBlocker, isOpen } from '../check/finding.js'
import { checkPostgres } from '../check/postgres.js'
import { checkRedis } from '../check/redis.js'
import type { BeforeSetup } from '../check/server.js'
import { ExitCode, Failure } from '../failure.js'
import { connectRedis } from '../redis/connect.js'
import type { Command, Context } from './command.js'
import { paint } from './output.js'

export const check: Command = {
  summary: 'preflight: every setting, privilege and limit that matters, with the exact fix',
  usage: `outrider check [--before-setup [--allow-unbounded-wal]]

Looks at Postgres and Redis with the relay's own configuration and role, and changes nothing in either.
Exit code 4 while there is something to mend or to decide; 3 when one of the two cannot be reached.

  --before-setup          only what outrider setup does not bring itself, whether it has run or not; exit code 4 only
                          while there is a blocker, among them WAL without a limit (max_slot_wal_keep_size)
  --allow-unbounded-wal   that one is a warning`,
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
    return report(context, { postgres, redis }, before ? isBlocker : isOpen)
  },
}

function beforeSetup({ flags }: Context): BeforeSetup | undefined {
  const allowUnboundedWal = flags['allow-unbounded-wal'] === true
  if (flags['before-setup'] === true) return { allowUnboundedWal }
  if (!allowUnboundedWal) return undefined
  throw new Failure('--allow-unbounded-wal: expected --before-setup beside it. Without that it is only a warning.', {
    exitCode: ExitCode.usage,
  })
}

type Settled<T> = { value: T } | { failure: Failure }
type Section = Settled<{ title: string; findings: Finding[] }>

const settle = [
  <T>(value: T): Settled<T> => ({ value }),
  (error: unknown): { failure: Failure } => {
    if (error instanceof Failure) return { failure: error }
    throw error
  },
] as const

function report(
  { json, out }: Context,
  sections: { postgres: Section; redis: Section },
  counts: (finding: Finding) => boolean,
): ExitCode {
  const all = Object.values(sections)
  const findings = all.flatMap((section) => ('failure' in section ? [] : section.value.findings))
  if (json) out(JSON.stringify(asData(sections)))
  else {
    for (const section of all) if (!('failure' in section)) out(describe(section.value))
    out(summary(findings, unchecked(sections)))
  }
  const failures = all.flatMap((section) => ('failure' in section ? [section.failure] : []))
  if (failures.length > 0) throw together(failures)
  return findings.some(counts) ? ExitCode.findings : ExitCode.done
}

/** The servers that could not be checked, as a person calls them. */
const unchecked = (sections: Record<keyof typeof SERVERS, Section>): string[] =>
  (['postgres', 'redis'] as const).flatMap((server) => ('failure' in sections[server] ? [SERVERS[server]] : []))

const SERVERS = { postgres: 'Postgres', redis: 'Redis' } as const

function asData(sections: Record<string, Section>): object {
  const entries = Object.entries(sections)
  return {
    findings: entries.flatMap(([server, section]) =>
      'failure' in section ? [] : section.value.findings.map((finding) => ({ server, ...finding })),
    ),
    unchecked: entries.flatMap(([server, section]) =>
      'failure' in section ? [{ server, reason: section.failure.message }] : [],
    ),
  }
}

/** One that cannot be reached may be so only now; that is said first, by the exit code. */
function together(failures: Failure[]): Failure {
  const exitCode = failures.find(({ exitCode }) => exitCode === ExitCode.unreachable)?.exitCode ?? ExitCode.failed
  return new Failure(failures.map(({ message }) => message).join(' '), { exitCode, cause: failures[0] })
}

const SYMBOL = { blocker: ['red', '✗'], warning: ['yellow', '!'], info: ['dim', '·'] } as const
const ORDER = Object.keys(SYMBOL)

function describe({ title, findings }: { title: string; findings: Finding[] }): string {
  const sorted = [...findings].sort((a, b) => ORDER.indexOf(a.level) - ORDER.indexOf(b.level))
  const lines = sorted.map(describeFinding)
  return [
    paint('bold', title),
    ...(sorted.some(isOpen) ? [] : [`  ${paint('green', '✓')} nothing to mend`]),
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

/** A verdict needs both servers: with one of them unchecked there is none. */
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
