import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type pg from 'pg'
import { unwatch, watch } from '../../testkit/services/guard.js'
import { until } from '../../testkit/services/until.js'
import type { LogLine } from './consumer-env.js'

const program = fileURLToPath(new URL('worker.ts', import.meta.url))

/**
 * after inbox    its row is inserted, the handler has not begun
 * before commit  the handler has done everything
 * after commit   Postgres has said so, the library has not heard it
 * before XACK    the library has heard it, Redis was told nothing
 */
export type Failpoint = 'after inbox' | 'before commit' | 'after commit' | 'before XACK'

export interface WorkerConfig {
  name: string
  postgres: string
  redis: string
  group: string
  streams: string[]
  ordered: boolean
  concurrency: number
  claimAfter: number
  /** How long each transaction stays open behind its effect, in milliseconds. */
  slow: number
  /**
   * Where it kills itself: at that call of the handler, or at the first one behind it that gets there. `retried`: of an event that was
   * set aside.
   */
  death?: { at: Failpoint; call: number; retried?: boolean | undefined } | undefined
}

/** What workers record beside the event: who did it, at which attempt, and what was committed of its subject before. */
export async function widenEffects(pool: pg.Pool): Promise<void> {
  await pool.query('alter table effect add worker text, add attempt int, add previous int')
  await pool.query('create index on effect (subject, n)')
}

/** A worker as users run it: a process of its own. */
export class WorkerProcess {
  readonly logs: LogLine[] = []
  readonly name: string
  /** Where it killed itself, and while it was doing which event. */
  death: { died: Failpoint; event: string } | undefined
  /** How many events it found to be done before, as far as it has said so. */
  duplicates = 0
  readonly #child: ChildProcess
  readonly #ended: Promise<{ code: number | null; signal: string | null }>
  #stderr = ''

  constructor(config: WorkerConfig) {
    this.name = config.name
    const { PATH = '', HOME = '' } = process.env
    this.#child = spawn(process.execPath, ['--import', 'tsx', program, JSON.stringify(config)], {
      env: { PATH, HOME },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const { pid } = this.#child
    if (pid !== undefined) watch(pid, 'KILL')
    // Not its exit: then its last words may not have been read.
    this.#ended = once(this.#child, 'close').then(([code, signal]) => {
      unwatch(this.pid)
      return { code, signal }
    })
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (line) => this.#read(line))
    this.#child.stderr?.on('data', (chunk) => {
      this.#stderr += chunk
    })
  }

  get pid(): number {
    return this.#child.pid as number
  }

  /** Resolves once it reads events. */
  async started(): Promise<this> {
    await until(() => this.said('the consumer has started').length > 0, {
      message: () => `${this.name} to start\n${this.tail()}`,
    })
    return this
  }

  get isRunning(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null
  }

  /** The lines of its log with this message. */
  said(message: string): LogLine[] {
    return this.logs.filter(({ msg }) => msg === message)
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** SIGKILL; resolves when it is gone. */
  async kill(): Promise<void> {
    this.signal('SIGKILL')
    await this.#ended
  }

  /** SIGTERM; resolves with the exit code. */
  async stop(): Promise<number | null> {
    this.signal('SIGTERM')
    return (await this.#ended).code
  }

  ended(): Promise<{ code: number | null; signal: string | null }> {
    return this.#ended
  }

  /** The last lines of its log, for a person who reads why a test failed. */
  tail(lines = 20): string {
    const told = this.logs.slice(-lines).map((line) => JSON.stringify(line))
    return [`-- ${this.name}`, ...told, this.#stderr].join('\n')
  }

  #read(line: string): void {
    const read = JSON.parse(line)
    if (read.died) this.death = read
    else if (read.duplicates) this.duplicates = read.duplicates
    else this.logs.push(read)
  }
}
