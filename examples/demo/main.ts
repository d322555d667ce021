import { setTimeout as pause } from 'node:timers/promises'
import { paint } from '../../src/cli/output.js'
import { DemoEnv } from './demo-env.js'
import { GROUPS } from './groups.js'
import { describeKept } from './keep.js'
import { type DemoOptions, readOptions, USAGE } from './options.js'
import { format, times } from './progress.js'
import { Relays } from './relays.js'
import { run, WRITERS } from './run.js'
import { describe, passed } from './summary.js'
import { Terminal } from './terminal.js'
import { WORKERS_PER_GROUP, Workers } from './workers.js'

/** The whole path on this machine: `npm run demo`. */

const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const
/** How long the end of an interrupted demo may take, in milliseconds. After that the guard process ends what still runs. */
const LETTING_GO = 5_000

const terminal = new Terminal()
const interrupt = new AbortController()
const env = new DemoEnv()
let relays: Relays | undefined
let workers: Workers | undefined

async function demo(options: DemoOptions): Promise<number> {
  const { signal } = interrupt
  terminal.say()
  terminal.say(
    `${paint('bold', 'Outrider')}  ${paint('dim', 'events from a Postgres outbox through Redis Streams to workers, on this machine')}`,
  )
  terminal.say()
  for (const part of ['startPostgres', 'startRedis', 'setUp'] as const) {
    await env[part](terminal)
    signal.throwIfAborted()
  }
  relays = new Relays(env.relayEnv())
  await startRelays(relays)
  workers = new Workers(env.workerEnv())
  await startWorkers(workers)
  terminal.say()
  terminal.say(announcement(options))
  terminal.say()
  const outcome = await run({ ...options, env, relays, workers, terminal, signal })
  terminal.say()
  terminal.say(describe(outcome))
  terminal.say()
  if (options.keep) {
    await startRelays(relays)
    await startWorkers(workers)
    terminal.say()
    terminal.say(describeKept(env, relays, workers))
    terminal.say()
    await endOf(signal)
  }
  return passed(outcome) ? 0 : 1
}

const startRelays = (pair: Relays): Promise<void> =>
  terminal.step('outrider relay', '', async () => {
    await pair.start()
    return [undefined, 'outrider relay, twice: one active, one standby']
  })

const startWorkers = (all: Workers): Promise<void> =>
  terminal.step('workers', '', async () => {
    await all.start()
    return [
      undefined,
      `${all.all.length} workers: ${WORKERS_PER_GROUP} of the group ${GROUPS.join(`, ${WORKERS_PER_GROUP} of `)}`,
    ]
  })

const announcement = ({ events, kills, workerKills }: DemoOptions): string => {
  const [one, many] = GROUPS
  const relayKilled = kills > 0 ? `, and the active relay is killed ${times(kills)}` : ''
  const workersKilled =
    workerKills > 0 ? `\nAny of their workers is killed at any time, ${times(workerKills)} in all.` : ''
  return `${WRITERS} writers commit ${format(events)} webhooks of GitHub, real payloads of up to 27 KB.
One transaction in ten rolls back${relayKilled}.
Two groups do each event once: ${one} one by one, ${many} in batches.${workersKilled}`
}

/** A timer of the longest possible time, because nothing else keeps the process alive. */
const endOf = (signal: AbortSignal): Promise<void> => pause(2 ** 31 - 1, undefined, { signal }).catch(() => {})

async function main(): Promise<number> {
  let options: DemoOptions | undefined
  try {
    options = readOptions(process.argv.slice(2))
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${USAGE}\n`)
    return 2
  }
  if (!options) {
    process.stdout.write(`${USAGE}\n`)
    return 0
  }
  let interrupted = 0
  for (const [name, code] of Object.entries(SIGNALS)) {
    process.on(name, () => {
      // A second signal ends the process at once; the guard process ends what still runs.
      if (interrupted) process.exit(code)
      interrupted = code
      interrupt.abort()
    })
  }
  try {
    const late = endOf(interrupt.signal).then(() => pause(LETTING_GO))
    return (await Promise.race([demo(options), late])) ?? interrupted
  } catch (error) {
    if (interrupted) return interrupted
    terminal.say(`${paint('red', '✘')} ${(error as Error).message}`)
    return 1
  } finally {
    await Promise.race([close(), pause(LETTING_GO)])
    if (interrupted) terminal.say('\nStopped. Nothing is left running.')
  }
}

async function close(): Promise<void> {
  await Promise.all([relays?.close(), workers?.close()])
  await env.close()
}

process.exit(await main())
