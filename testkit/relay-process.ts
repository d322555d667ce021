import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { MAIN } from './outrider.js'
import { unwatch, watch } from './services/guard.js'
import { freePort } from './services/index.js'
import { until } from './services/until.js'

export interface LogLine {
  level: string
  msg: string
  reason?: string
  [key: string]: unknown
}

/** For a relay that is frozen. */
const STATUS_TIMEOUT_MS = 15_000

/** A relay as users run it: the built command, as a process of its own. */
export class RelayProcess {
  readonly logs: LogLine[] = []
  readonly #child: ChildProcess
  readonly #ended: Promise<{ code: number | null; signal: string | null }>
  #stderr = ''

  private constructor(
    child: ChildProcess,
    readonly httpPort: number,
  ) {
    this.#child = child
    // Not its exit: then its last lines may not have been read.
    this.#ended = once(child, 'close').then(([code, signal]) => {
      unwatch(this.pid)
      return { code, signal }
    })
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) =>
      this.logs.push(JSON.parse(line)),
    )
    child.stderr?.on('data', (chunk) => {
      this.#stderr += chunk
    })
  }

  /** `main`: the command, where it is not this tree's. */
  static async start(env: Record<string, string>, main = MAIN): Promise<RelayProcess> {
    const port = await freePort()
    const { PATH = '', HOME = '' } = process.env
    const child = spawn(process.execPath, [main, 'relay'], {
      env: { PATH, HOME, OUTRIDER_HTTP_PORT: String(port), OUTRIDER_HTTP_HOST: '127.0.0.1', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    if (child.pid !== undefined) watch(child.pid, 'KILL')
    return new RelayProcess(child, port)
  }

  get pid(): number {
    return this.#child.pid as number
  }

  get isRunning(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null
  }

  /**
   * The body of /readyz, with the status code; undefined while nothing answers. A connection of its own, as for `metric`; and a machine
   * that stands still for seconds is no relay that does not answer.
   */
  async status(): Promise<
    { code: number; role: string; state: string; reason?: string; message?: string } | undefined
  > {
    try {
      const response = await fetch(`http://127.0.0.1:${this.httpPort}/readyz`, {
        headers: { connection: 'close' },
        signal: AbortSignal.timeout(STATUS_TIMEOUT_MS),
      })
      return { code: response.status, ...((await response.json()) as { role: string; state: string }) }
    } catch {
      return undefined
    }
  }

  async metric(name: string): Promise<number | undefined> {
    // A connection of its own: the relay closes one that was quiet for 5 s, which a request may meet half-way.
    const response = await fetch(`http://127.0.0.1:${this.httpPort}/metrics`, { headers: { connection: 'close' } })
    const found = (await response.text())
      .split('\n')
      .filter((line) => line.startsWith(name) && /[ {]/.test(line[name.length] ?? ''))
    return found.length === 0 ? undefined : found.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
  }

  /** Waits until /readyz says so. */
  async is(expected: { role?: string; state?: string; reason?: string }, timeout?: number): Promise<void> {
    let last: object | undefined
    await until(
      async () => {
        last = await this.status()
        return (
          last !== undefined &&
          Object.entries(expected).every(([key, value]) => (last as Record<string, unknown>)[key] === value)
        )
      },
      {
        timeout,
        message: () => `a relay that says ${JSON.stringify(expected)}, it says ${JSON.stringify(last)}\n${this.tail()}`,
      },
    )
  }

  streaming(timeout?: number): Promise<void> {
    return this.is({ role: 'active', state: 'streaming' }, timeout)
  }

  /**
   * Waits until its log has so many lines that match; returns these. The log comes by a pipe: a line may be read later than a reply of
   * its HTTP server, Redis or Postgres that was sent after it.
   */
  async logged(matches: (line: LogLine) => boolean, times = 1): Promise<LogLine[]> {
    const found = () => this.logs.filter(matches)
    await until(() => found().length >= times, {
      message: () => `${times} lines of the log where ${matches}, found ${found().length}\n${this.tail()}`,
    })
    return found()
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** SIGKILL; resolves when it is gone. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#ended
  }

  /** SIGTERM; resolves with the exit code. */
  async stop(): Promise<number | null> {
    this.#child.kill('SIGTERM')
    return (await this.#ended).code
  }

  ended(): Promise<{ code: number | null; signal: string | null }> {
    return this.#ended
  }

  /** The last lines of its log, for a person who reads why a test failed. */
  tail(lines = 30): string {
    return [...this.logs.slice(-lines).map((line) => JSON.stringify(line)), this.#stderr].join('\n')
  }
}
