import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { serviceAccount } from './account.js'
import { unwatch, watch } from './guard.js'
import { until } from './until.js'

/** One program with its arguments, to be run once (initdb) or kept running (a server). */
export interface Launch {
  /** Its bare name, such as "redis-server"; the host knows where it is. */
  program: string
  args: string[]
  env?: Record<string, string>
  /** The one folder that it may write to. */
  folder: string
  /** The file that takes its output. */
  log: string
  /** The port that it serves on 127.0.0.1, if any. */
  port?: number
  /** Postgres must not be root, and clears its shared memory only when it may shut down. */
  kind: 'postgres' | 'redis' | 'kubernetes'
}

/** A server under control, whether a process of this machine or a container. */
export interface Running {
  readonly pid: number
  /** Resolves, never rejects, with how it ended, such as "signal SIGKILL". */
  readonly ended: Promise<string>
  /** Sends a signal. SIGKILL goes to the child processes, too, as when the machine dies. */
  signal(name: NodeJS.Signals): Promise<void>
  /** Stops every process of it in its tracks; the kernel keeps accepting connections for it. */
  freeze(): Promise<void>
  thaw(): Promise<void>
}

/** Where the programs of a host come from. */
export type Origin = 'PATH' | 'npm' | 'Debian package' | 'PyPI' | 'Docker' | 'built here'

/** Where programs run: on this machine, or in containers of one image. */
export interface Host {
  readonly isLocal: boolean
  readonly origin: Origin
  /** The folder in the cache that the programs were unpacked into just now; undefined where they were there before. */
  readonly unpackedInto: string | undefined
  /** The address that servers must listen on to be reached at 127.0.0.1. */
  readonly listens: string
  /** The address at which its servers reach each other. */
  readonly peer: string
  run(launch: Launch): Promise<void>
  launch(launch: Launch): Promise<Running>
}

/** A folder of programs on this machine. */
export interface Programs {
  bin: string
  origin: Origin
  /** What they need in their environment. */
  env?: Record<string, string>
  unpackedInto?: string | undefined
}

/** This machine. */
export class LocalHost implements Host {
  readonly isLocal = true
  readonly listens = '127.0.0.1'
  readonly peer = '127.0.0.1'
  readonly bin: string
  readonly origin: Origin
  readonly env: Record<string, string>
  readonly unpackedInto: string | undefined

  constructor({ bin, origin, env = {}, unpackedInto }: Programs) {
    this.bin = bin
    this.origin = origin
    this.env = env
    this.unpackedInto = unpackedInto
  }

  async run(launch: Launch): Promise<void> {
    const [code, signal] = await once(start(this, launch), 'exit')
    if (code !== 0) {
      throw new Error(`Expected ${launch.program} to succeed, it ended with ${code ?? signal}:\n${tail(launch.log)}`)
    }
  }

  async launch(launch: Launch): Promise<Running> {
    const child = start(this, launch)
    await once(child, 'spawn')
    return new LocalProcess(child)
  }
}

function start(host: LocalHost, launch: Launch): ChildProcess {
  const log = openSync(launch.log, 'a')
  // A group of its own: Ctrl-C is for the tests, which then stop their servers.
  const child = spawn(join(host.bin, launch.program), launch.args, {
    cwd: launch.folder,
    env: { PATH: process.env.PATH, LC_ALL: 'C', ...host.env, ...launch.env },
    stdio: ['ignore', log, log],
    detached: true,
    ...(launch.kind === 'postgres' ? serviceAccount() : undefined),
  })
  closeSync(log)
  const { pid } = child
  if (pid !== undefined) {
    watch(pid, launch.kind === 'postgres' ? 'QUIT' : 'KILL')
    child.once('exit', () => unwatch(pid))
  }
  return child
}

class LocalProcess implements Running {
  readonly pid: number
  readonly ended: Promise<string>
  readonly #child: ChildProcess
  #alive = true
  #frozen: number[] = []
  #orphans: number[] = []

  constructor(child: ChildProcess) {
    this.#child = child
    this.pid = child.pid!
    // A script that is done may end although its servers run; the guard ends them. Who sends a signal waits.
    child.unref()
    this.ended = once(child, 'exit').then(async ([code, signal]) => {
      this.#alive = false
      for (const pid of this.#frozen) unwatch(pid)
      // A killed server's children live on for a moment, and hold its files and memory.
      await until(() => !this.#orphans.some(isAlive), { message: 'the children of a killed server to end' })
      return signal ? `signal ${signal}` : `exit code ${code}`
    })
  }

  async signal(name: NodeJS.Signals): Promise<void> {
    this.#child.ref()
    if (name === 'SIGKILL') {
      this.#orphans = await childrenOf(this.pid)
      this.#send(this.pid, name)
      for (const pid of this.#orphans) this.#send(pid, name)
    } else {
      this.#send(this.pid, name)
    }
  }

  async freeze(): Promise<void> {
    // The parent first: then it can have no new children.
    this.#send(this.pid, 'SIGSTOP')
    const children = await childrenOf(this.pid)
    for (const pid of children) {
      watch(pid, 'KILL')
      this.#send(pid, 'SIGSTOP')
    }
    this.#frozen.push(...children)
    await until(() => [this.pid, ...children].every(isStopped), { message: `process ${this.pid} to be frozen` })
  }

  async thaw(): Promise<void> {
    for (const pid of this.#frozen.splice(0)) {
      this.#send(pid, 'SIGCONT')
      unwatch(pid)
    }
    this.#send(this.pid, 'SIGCONT')
  }

  /** Only while the process is known to live, for later its number may be another's. */
  #send(pid: number, name: NodeJS.Signals): void {
    if (!this.#alive) return
    try {
      process.kill(pid, name)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }
}

async function childrenOf(pid: number): Promise<number[]> {
  const file = `/proc/${pid}/task/${pid}/children`
  if (existsSync(file)) return readFileSync(file, 'utf8').split(' ').filter(Boolean).map(Number)
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,ppid='])
  const rows = stdout.split('\n').map((line) => line.trim().split(/\s+/).map(Number))
  return rows.flatMap(([child, parent]) => (parent === pid && child ? [child] : []))
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return stateOf(pid) !== 'Z'
  } catch {
    return false
  }
}

function isStopped(pid: number): boolean {
  const state = stateOf(pid)
  return state === undefined || state === 'T' || state === 'Z'
}

/** The letter of /proc; undefined where there is no /proc or the process is gone. */
function stateOf(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '')[0]
  } catch {
    return undefined
  }
}

/** The last lines of a log, for error messages. */
export function tail(log: string): string {
  return existsSync(log) ? readFileSync(log, 'utf8').trimEnd().split('\n').slice(-20).join('\n') : '(no output)'
}
