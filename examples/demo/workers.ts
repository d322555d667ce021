import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { unwatch, watch } from '../../testkit/services/guard.js'
import { until } from '../../testkit/services/until.js'
import { GROUPS, type GroupName, type PerGroup, perGroup } from './groups.js'
import type { Told } from './worker.js'

const PROGRAM = fileURLToPath(new URL('./worker.ts', import.meta.url))
export const WORKERS_PER_GROUP = 2
/** A machine may be busy with other things. */
const PATIENCE = 120_000
const MOST_KEPT = 4_000

/** The same number of workers in each group at all times, each a process of its own. */
export class Workers {
  /** Deliveries that the inbox recognised, as all workers counted them, the killed ones included. */
  readonly duplicates: PerGroup<number> = perGroup(() => 0)
  readonly kills: PerGroup<number> = perGroup(() => 0)
  readonly #env: Record<string, string>
  #workers: WorkerProcess[] = []

  constructor(env: Record<string, string>) {
    this.#env = env
  }

  get all(): readonly WorkerProcess[] {
    return this.#workers
  }

  async start(): Promise<void> {
    for (const group of GROUPS) for (let n = 0; n < WORKERS_PER_GROUP; n++) this.#launch(group)
    await until(() => this.#started().length === this.#workers.length || this.failure !== undefined, {
      timeout: PATIENCE,
      message: () => `all workers to start\n${this.tail()}`,
    })
    if (this.failure) throw new Error(this.failure)
  }

  /** Kills a random worker with SIGKILL and launches a new one. Does not wait until that one has started. Returns its group. */
  async kill(random: () => number): Promise<GroupName> {
    const started = await until(() => this.#started().length > 0 && this.#started(), {
      timeout: PATIENCE,
      message: () => `a worker to kill\n${this.tail()}`,
    })
    const victim = started[Math.floor(random() * started.length)] as WorkerProcess
    this.#workers.splice(this.#workers.indexOf(victim), 1)
    await victim.kill()
    this.kills[victim.group] += 1
    this.#launch(victim.group)
    return victim.group
  }

  /** What is wrong when one has ended by itself. */
  get failure(): string | undefined {
    const ended = this.#workers.find(({ isRunning }) => !isRunning)
    return ended && `Expected the workers to run, one of ${ended.group} ended. It said last:\n${ended.tail}`
  }

  /** SIGTERM: they finish what they have begun. */
  async stop(): Promise<void> {
    await Promise.all(this.#workers.splice(0).map((worker) => worker.stop()))
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.splice(0).map((worker) => worker.kill()))
  }

  tail(): string {
    return this.#workers.map(({ group, tail }) => `${group}: ${tail}`).join('\n')
  }

  #started(): WorkerProcess[] {
    return this.#workers.filter(({ started, isRunning }) => started && isRunning)
  }

  #launch(group: GroupName): void {
    const count = (duplicates: number) => {
      this.duplicates[group] += duplicates
    }
    this.#workers.push(new WorkerProcess(group, this.#env, count))
  }
}

class WorkerProcess {
  started = false
  /** What it said last, for a person. */
  tail = ''
  readonly group: GroupName
  readonly #child: ChildProcess
  readonly #closed: Promise<unknown>

  constructor(group: GroupName, env: Record<string, string>, count: (duplicates: number) => void) {
    this.group = group
    const { PATH = '', HOME = '' } = process.env
    this.#child = spawn(process.execPath, ['--import', 'tsx', PROGRAM, group], {
      env: { PATH, HOME, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const { pid } = this.#child
    if (pid !== undefined) {
      watch(pid, 'KILL')
      this.#child.once('exit', () => unwatch(pid))
    }
    // Not 'exit': what it wrote before it ended has been read by then.
    this.#closed = once(this.#child, 'close')
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      const { started, duplicates = 0 } = JSON.parse(line) as Told
      if (started) this.started = true
      count(duplicates)
    })
    this.#child.stderr?.on('data', (chunk) => {
      this.tail = (this.tail + chunk).slice(-MOST_KEPT)
    })
  }

  get pid(): number {
    return this.#child.pid as number
  }

  get isRunning(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#closed
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGTERM')
    await this.#closed
  }
}
