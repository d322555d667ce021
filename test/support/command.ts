import { pino } from 'pino'
import type { ExitCode } from '../../src/base/failure.js'
import type { Command } from '../../src/cli/command.js'
import { type Config, OWN_OUTBOX } from '../../src/config/schema.js'

export interface CommandRun {
  config?: Partial<Config>
  args?: string[]
  flags?: Record<string, string | boolean | string[]>
  json?: boolean
  /** The answer to every question; without one, a question is an error. */
  answer?: boolean
  /** Where it prints to, for a command that fails after it has printed. */
  out?: (text: string) => void
}

/** Runs a command in this process against the database of `url`, and returns its exit code and what it printed. */
export async function runCommand(
  command: Command,
  url: string,
  run: CommandRun = {},
): Promise<{ code: ExitCode; text: string }> {
  const lines: string[] = []
  const code = await command.run({
    config: { ...configFor(url), ...run.config },
    args: run.args ?? [],
    flags: { ...patienceOf(command), ...run.flags },
    json: run.json ?? false,
    yes: run.answer === true,
    timeout: 10_000,
    log: pino({ level: 'silent' }),
    out: (text) => {
      lines.push(text)
      run.out?.(text)
    },
    async ask(question) {
      if (run.answer === undefined) throw new Error(`Unexpected question: ${question}`)
      return run.answer
    },
  })
  return { code, text: lines.join('\n') }
}

/** A new slot waits for the open write transactions of the whole cluster: those of other tests, too. */
const patienceOf = ({ options }: Command): CommandRun['flags'] =>
  'lock-timeout' in options ? { 'lock-timeout': '60s' } : {}

/** The defaults, with a slot name that is free as long as the database's name is. */
export function configFor(url: string): Config {
  return {
    postgres: { url, connectTimeout: 10_000 },
    redis: { url: 'redis://127.0.0.1:1', connectTimeout: 1_000 },
    slot: `outrider_${new URL(url).pathname.slice(1)}`,
    publication: 'outrider',
    source: undefined,
    durability: 'auto',
    retention: 259_200_000,
    retentionMaxSize: 53_687_091_200,
    isRetentionSet: false,
    maxEventBytes: 1_048_576,
    onGap: 'repair',
    repairMaxEvents: 10_000_000,
    http: { port: 0, host: '127.0.0.1' },
    logLevel: 'silent',
    streams: {},
    outbox: OWN_OUTBOX,
    limits: { batchEvents: 256, batchBytes: 262_144, inflightBytes: 33_554_432 },
    drainTimeout: 20_000,
  }
}
