#!/usr/bin/env node
import { parseArgs } from 'node:util'
import { ExitCode, OutriderError } from '../base/failure.js'
import { maskUrlsIn } from '../base/secret.js'
import { parseDuration } from '../base/units.js'
import { VERSION } from '../base/version.js'
import { loadConfig } from '../config/load.js'
import type { Config } from '../config/schema.js'
import { closest } from '../config/suggestion.js'
import { createLogger } from '../telemetry/log.js'
import type { Command, CommandOptions } from './command.js'
import { askOnTerminal, paint } from './output.js'
import { unknownAction } from './usage.js'

/** Each is loaded only when it is called: a help text needs no database client. */
const COMMANDS: Record<string, () => Promise<Command>> = {
  setup: async () => (await import('./setup.js')).setup,
  teardown: async () => (await import('./teardown.js')).teardown,
  adopt: async () => (await import('./adopt.js')).adopt,
  'move-redis': async () => (await import('./move-redis.js')).moveRedis,
  relay: async () => (await import('./relay.js')).relay,
  check: async () => (await import('./check.js')).check,
  ping: async () => (await import('./ping.js')).ping,
  status: async () => (await import('./status.js')).status,
  find: async () => (await import('./find.js')).find,
  audit: async () => (await import('./audit.js')).auditStreams,
  republish: async () => (await import('./republish.js')).republish,
  incidents: async () => (await import('./incidents.js')).incidents,
  'dead-letters': async () => (await import('./dead-letters.js')).deadLetters,
}

const COMMON: CommandOptions = {
  config: { type: 'string' },
  timeout: { type: 'string' },
  json: { type: 'boolean' },
  yes: { type: 'boolean', short: 'y' },
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean', short: 'V' },
}

const ENVIRONMENT_HELP = `Environment variables
  OUTRIDER_POSTGRES_URL   postgres://user:password@host:5432/database (or DATABASE_URL)
  OUTRIDER_REDIS_URL      redis://host:6379, also rediss://, redis+sentinel://, redis+cluster:// (or REDIS_URL)
  OUTRIDER_SLOT           the replication slot (outrider_<database>)
  OUTRIDER_HTTP_PORT      where the relay serves /livez, /readyz and /metrics (9474; 0: nowhere)
  OUTRIDER_LOG_LEVEL      trace, debug, info, warn, error, fatal or silent (info)
All others, and the file: docs/configuration.md`

const COMMON_HELP = `Options of every command
  --config <file>    settings in YAML; environment variables win over it (OUTRIDER_CONFIG)
  --timeout <time>   how long to wait for Postgres or Redis, such as 10s
  --json             print data as JSON
  --yes, -y          answer every question with yes
  --help, -h         this text
  --version, -V      the version`

async function main(argv: string[]): Promise<ExitCode> {
  const [name, ...rest] = argv
  if (name === '--version' || name === '-V') return say(VERSION)
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    if (name === 'help' && rest[0] !== undefined) return say(helpFor(await commandFor(rest[0])))
    const text = await overview()
    if (name !== undefined) return say(text)
    process.stderr.write(`${text}\n`)
    return ExitCode.usage
  }
  const command = await commandFor(name)
  const { values, positionals } = parse(name, command, rest)
  if (values.version) return say(VERSION)
  if (values.help) return say(helpFor(command))
  if (positionals.length > 0 && !command.takesArguments) {
    throw new OutriderError(
      `outrider ${name} takes no arguments, found "${positionals.join(' ')}". See outrider ${name} --help.`,
      {
        exitCode: ExitCode.usage,
      },
    )
  }
  const [action] = positionals
  if (command.actions && action !== undefined && !command.actions.includes(action)) {
    throw unknownAction(name, action, command.actions)
  }
  return runCommand(command, values, positionals)
}

async function runCommand(command: Command, values: Values, args: string[]): Promise<ExitCode> {
  const { config: file, timeout, json = false, yes = false, help: _help, version: _version, ...flags } = values
  const limit = readTimeout(timeout)
  const given = loadConfig({
    env: process.env,
    ...(typeof file === 'string' ? { file } : {}),
    ...(command.unused ? { unused: command.unused } : {}),
  })
  const config = withTimeout(given, limit)
  const log = createLogger({ level: config.logLevel, output: command.service ? 'stdout' : 'stderr' })
  return command.run({
    config,
    args,
    flags,
    json: json === true,
    yes: yes === true,
    timeout: limit ?? config.postgres.connectTimeout,
    log,
    out: say,
    ask: async (question) => yes === true || askOnTerminal(question),
  })
}

type Values = Record<string, string | boolean | string[] | undefined>

function parse(name: string, command: Command, args: string[]): { values: Values; positionals: string[] } {
  const options = { ...command.options, ...COMMON }
  try {
    const { values, positionals } = parseArgs({ args, options, allowPositionals: true, strict: true })
    return { values: values as Values, positionals }
  } catch (error) {
    const { code, message } = error as { code?: string; message: string }
    if (!code?.startsWith('ERR_PARSE_ARGS_')) throw error
    const [, wrong] = /'(--?[^'\s=]+)/.exec(message) ?? []
    const meant =
      code === 'ERR_PARSE_ARGS_UNKNOWN_OPTION' && wrong
        ? closest(wrong.replace(/^-+/, ''), Object.keys(options))
        : undefined
    const found = code === 'ERR_PARSE_ARGS_UNKNOWN_OPTION' ? `Unknown option ${wrong ?? ''}` : message
    const hint = meant ? `Did you mean --${meant}? ` : ''
    throw new OutriderError(`${found.replace(/\.$/, '')}. ${hint}See \`outrider ${name} --help\`.`, {
      exitCode: ExitCode.usage,
    })
  }
}

async function commandFor(name: string): Promise<Command> {
  const load = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (load) return load()
  const meant = closest(name, Object.keys(COMMANDS))
  throw new OutriderError(
    `Unknown command "${name}". ${meant ? `Did you mean ${meant}? ` : ''}See \`outrider --help\` for all of them.`,
    { exitCode: ExitCode.usage },
  )
}

async function overview(): Promise<string> {
  const lines = await Promise.all(
    Object.entries(COMMANDS).map(async ([name, load]) => `  ${name.padEnd(14)}${(await load()).summary}`),
  )
  return `Outrider carries events from a Postgres outbox into Redis Streams.

${paint('bold', 'outrider <command> [options]')}

Commands
${lines.join('\n')}

${COMMON_HELP}

${ENVIRONMENT_HELP}

Examples
  outrider setup && outrider check && outrider relay
  outrider status
  outrider find order-42

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a dependency unreachable, 4 done, with findings.
\`outrider <command> --help\` tells more. Documentation: README.md and docs/ of the repository.`
}

function helpFor({ summary, usage, examples = [], docs, unused = [] }: Command): string {
  const calls = examples.map(([call, what]) => `  ${call.padEnd(60)}  ${what}`)
  const environment = unused.length === 0 ? ENVIRONMENT_HELP : `${ENVIRONMENT_HELP}\n${unusedText(unused)}`
  return [
    summary,
    usage,
    ...(calls.length > 0 ? [['Examples', ...calls].join('\n')] : []),
    COMMON_HELP,
    environment,
    ...(docs === undefined ? [] : [`Documentation: ${docs}`]),
  ].join('\n\n')
}

const unusedText = (unused: readonly string[]): string =>
  `This command needs no URL of ${unused.map((server) => (server === 'redis' ? 'Redis' : 'Postgres')).join(' and ')}.`

function readTimeout(value: Values[string]): number | undefined {
  if (value === undefined) return undefined
  const timeout = parseDuration(value)
  if (timeout !== undefined && timeout > 0) return timeout
  throw new OutriderError(`Expected --timeout as a duration such as 10s, found "${value}".`, {
    exitCode: ExitCode.usage,
  })
}

function withTimeout(config: Config, connectTimeout: number | undefined): Config {
  if (connectTimeout === undefined) return config
  return { ...config, postgres: { ...config.postgres, connectTimeout }, redis: { ...config.redis, connectTimeout } }
}

function say(text: string): ExitCode {
  process.stdout.write(`${text}\n`)
  return ExitCode.done
}

/** What a person sees of an error. A stack only for what no one foresaw, and only when debugging. */
function complain(error: unknown): ExitCode {
  const line = (text: string) =>
    process.stderr.write(`${paint('red', 'outrider:', process.stderr)} ${maskUrlsIn(text)}\n`)
  if (error instanceof OutriderError) {
    line(error.message)
    return error.exitCode
  }
  const { name, message, stack } = error instanceof Error ? error : new Error(String(error))
  line(
    `${name}: ${message}. This is a bug in Outrider; please report it. OUTRIDER_LOG_LEVEL=debug shows where it happened.`,
  )
  if (/^(debug|trace)$/.test(process.env.OUTRIDER_LOG_LEVEL ?? '')) process.stderr.write(`${maskUrlsIn(stack ?? '')}\n`)
  return ExitCode.failed
}

/** Ends at once, whatever is still open, but not before both outputs are written. */
function end(code: ExitCode): void {
  process.exitCode = code
  process.stdout.write('', () => process.stderr.write('', () => process.exit()))
}

for (const event of ['uncaughtException', 'unhandledRejection']) process.on(event, (error) => end(complain(error)))
// The reader of a pipe may leave early (`outrider incidents | head`); that is no error.
for (const output of [process.stdout, process.stderr]) {
  output.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })
}

main(process.argv.slice(2)).then(end, (error) => end(complain(error)))
