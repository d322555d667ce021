import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { basename } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { unwatch, watch } from '../../testkit/services/guard.js'
import { until } from '../../testkit/services/until.js'

const TAIL = 20

/** A worker in a process of its own, as in a deployment. It gets its settings from environment variables. */
export class WorkerProcess {
  readonly name: string
  /** What it has said on standard output. */
  readonly lines: string[] = []
  readonly #child: ChildProcess
  readonly #ended: Promise<number | null>
  readonly #log: string[] = []

  private constructor(name: string, child: ChildProcess, onLine: (line: string) => void) {
    this.name = name
    this.#child = child
    const { pid } = child
    // If this process is killed, the guard process ends the worker, too.
    if (pid !== undefined) watch(pid, 'KILL')
    this.#ended = once(child, 'exit').then(([code]) => {
      if (pid !== undefined) unwatch(pid)
      return code
    })
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      this.lines.push(line)
      onLine(line)
    })
    // The consumer's own log: JSON lines.
    createInterface({ input: child.stderr as NodeJS.ReadableStream }).on('line', (line) => this.#log.push(line))
  }

  /** Resolves once it reads events. */
  static async start(
    name: string,
    file: URL,
    env: Record<string, string>,
    onLine: (line: string) => void,
  ): Promise<WorkerProcess> {
    const { PATH = '', HOME = '' } = process.env
    const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), fileURLToPath(file)], {
      env: { PATH, HOME, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const worker = new WorkerProcess(name, child, onLine)
    const hasStarted = () => worker.#log.some((line) => line.includes('"the consumer has started"'))
    await until(() => hasStarted() || !worker.isRunning, {
      message: () => `${basename(file.pathname)} to start\n${worker.tail()}`,
    })
    if (!worker.isRunning) throw new Error(`Expected ${basename(file.pathname)} to run, it ended:\n${worker.tail()}`)
    return worker
  }

  get isRunning(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null
  }

  /** SIGTERM, as every platform asks a process to end; its exit code. */
  async stop(): Promise<number | null> {
    this.#child.kill('SIGTERM')
    return this.#ended
  }

  /** SIGKILL: as when the machine dies, or its memory runs out. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#ended
  }

  /** The end of its log. */
  tail(): string {
    return [`${this.name}:`, ...this.#log.slice(-TAIL)].join('\n')
  }
}
