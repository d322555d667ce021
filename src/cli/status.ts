import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { ExitCode, OutriderError } from '../base/failure.js'
import { parsePostgresUrl } from '../config/postgres-url.js'
import { findingsOf } from '../status/findings.js'
import { readStatus, type StatusOptions } from '../status/status.js'
import type { Command, Context } from './command.js'
import { printable } from './output.js'
import { statusJson } from './status-json.js'
import { statusText } from './status-text.js'

export const status: Command = {
  summary: 'the state of relay, slot, outbox, streams, groups, Redis, incidents; the next command for each problem',
  usage: `outrider status [--watch] [--stream <name>] [--group <name>] [--inbox <url>] …

Exit code 0 where nothing is wrong, 4 with findings, 3 where Postgres or Redis cannot be reached: then it shows what the other
one knows. Changes nothing. Needs outrider_relay in Postgres, and the reading commands of docs/redis-acl.md in Redis.

  --watch          refreshes every two seconds until Ctrl-C; with --json one line each time
  --stream <name>  only this stream with its partitions, or <name>:<number> for one of them
  --group <name>   only this consumer group
  --inbox <url>    a workers' database of its own, to see that Redis has lost none of its groups; may be repeated`,
  examples: [
    ['outrider status --watch', 'again every two seconds'],
    ['outrider status --stream orders --group billing', 'only these'],
  ],
  docs: 'docs/status.md',
  options: {
    watch: { type: 'boolean' },
    stream: { type: 'string' },
    group: { type: 'string' },
    inbox: { type: 'string', multiple: true },
  },
  async run(context) {
    const options = optionsOf(context)
    if (context.flags.watch !== true) return look(context, options)
    return watch(context, options)
  },
}

function optionsOf({ config, flags }: Context): StatusOptions {
  const { stream, group } = flags
  return {
    config,
    inboxes: inboxesOf(flags),
    ...(typeof stream === 'string' ? { stream } : {}),
    ...(typeof group === 'string' ? { group } : {}),
  }
}

/** The URLs of `--inbox`. */
export function inboxesOf({ inbox = [] }: Context['flags']): string[] {
  const urls = Array.isArray(inbox) ? inbox : [String(inbox)]
  for (const url of urls) {
    try {
      parsePostgresUrl(url)
    } catch (error) {
      throw new OutriderError(`--inbox: expected ${(error as Error).message}.`, { exitCode: ExitCode.usage })
    }
  }
  return urls
}

/** `before`: written right before the screen, once it is known. */
async function look(context: Context, options: StatusOptions, before = ''): Promise<ExitCode> {
  const { config, json, out } = context
  const found = await readStatus(options)
  const findings = findingsOf(found, config)
  out(
    before +
      (json ? printable(JSON.stringify(statusJson(found, findings, config))) : statusText(found, findings, config)),
  )
  if ('failure' in found.postgres || 'failure' in found.redis) return unreachableCode(found)
  return findings.length > 0 ? ExitCode.findings : ExitCode.done
}

/** One that refuses is reached; what it refuses is a finding. */
function unreachableCode({ postgres, redis }: Awaited<ReturnType<typeof readStatus>>): ExitCode {
  const codes = [postgres, redis].flatMap((asked) => ('failure' in asked ? [asked.failure.exitCode] : []))
  return codes.includes(ExitCode.unreachable) ? ExitCode.unreachable : ExitCode.findings
}

const REFRESH_MS = 2_000
/** Cursor to the first line, then everything below it away: no flicker, unlike clearing first. */
const HOME = '\u001b[H\u001b[J'

async function watch(context: Context, options: StatusOptions): Promise<ExitCode> {
  const stop = new AbortController()
  const interrupted = Promise.race(['SIGINT', 'SIGTERM'].map((name) => once(process, name, { signal: stop.signal })))
  interrupted.catch(() => {})
  let code: ExitCode = ExitCode.done
  let ended = false
  void interrupted.then(
    () => (ended = true),
    () => {},
  )
  const refresh = process.stdout.isTTY && !context.json ? HOME : ''
  while (!ended) {
    code = await Promise.race([look(context, options, refresh), interrupted.then(() => code)])
    await Promise.race([pause(REFRESH_MS, undefined, { signal: stop.signal }), interrupted])
  }
  stop.abort()
  return code
}
