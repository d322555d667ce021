import { writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { copyTree, runFolder, scratch } from './folder.js'
import { type Host, type Launch, type Running, tail } from './process.js'
import { until } from './until.js'

let copies = 0

/** One server of our own: what Postgres and Redis have in common. Its port and data stay the same through restarts. */
export abstract class Service {
  readonly dataDir: string
  /** The file with the server's own messages. */
  readonly log: string
  protected readonly folder: string
  #running: Running | undefined
  #frozen = false

  protected constructor(
    kind: 'postgres' | 'redis' | 'kubernetes',
    readonly host: Host,
    readonly port: number,
  ) {
    this.folder = scratch(kind)
    this.dataDir = join(this.folder, 'data')
    this.log = join(this.folder, 'log')
    writeFileSync(this.log, '')
  }

  /** What to start, with everything that it reads written beforehand. */
  protected abstract prepare(): Launch
  /** Whether the server serves; an error means "not yet", too. */
  protected abstract answers(): Promise<boolean>
  /** The signal that ends it at once and yet leaves nothing of it in the system. */
  protected abstract readonly endSignal: NodeJS.Signals

  get pid(): number {
    return this.running.pid
  }

  get isRunning(): boolean {
    return this.#running !== undefined
  }

  get isFrozen(): boolean {
    return this.#frozen
  }

  protected get running(): Running {
    if (this.#running) return this.#running
    throw new Error(`Expected the server on port ${this.port} to run, but it was stopped. Call start() first.`)
  }

  /** Starts it (again), on the same port and data, and resolves when it serves. */
  async start(): Promise<void> {
    if (this.#running) throw new Error(`Expected the server on port ${this.port} to be stopped, but it runs`)
    const running = await this.host.launch(this.prepare())
    this.#running = running
    let end: string | undefined
    void running.ended.then((how) => {
      end = how
      if (this.#running === running) this.#running = undefined
      this.#frozen = false
    })
    const serves = async () => end !== undefined || (await this.answers())
    await until(serves, { message: () => `a server on port ${this.port}\n${tail(this.log)}` })
    if (end !== undefined)
      throw new Error(`Expected a server on port ${this.port}, it ended: ${end}\n${tail(this.log)}`)
  }

  /** Sends a signal; with SIGKILL, resolves once it and its children are gone, as when the machine dies. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const { running } = this
    await running.signal(signal)
    if (signal === 'SIGKILL') await running.ended
  }

  /** Stops all its processes in their tracks: connections stay, nothing answers. */
  async freeze(): Promise<void> {
    await this.running.freeze()
    this.#frozen = true
  }

  async thaw(): Promise<void> {
    await this.running.thaw()
    this.#frozen = false
  }

  /** Resolves when it has ended, whoever ended it. */
  async ended(): Promise<void> {
    await this.#running?.ended
  }

  /**
   * A copy of the data as a volume snapshot makes it: all at one instant, of a running server, too, which is held still
   * meanwhile. For `dataFrom` or `restore`, any number of times.
   */
  async cloneData(): Promise<string> {
    const thawed = this.#running !== undefined && !this.#frozen
    const target = join(runFolder(), `copy-${copies++}`)
    if (thawed) await this.freeze()
    try {
      await copyTree(this.dataDir, target)
    } finally {
      if (thawed) await this.thaw()
    }
    return target
  }

  /** Puts a volume snapshot back: ends the server at once, replaces its data by those of `cloneData`, starts it. */
  async restore(data: string): Promise<void> {
    await this.end()
    await rm(this.dataDir, { recursive: true, force: true })
    await copyTree(data, this.dataDir)
    await this.start()
  }

  /** Ends it in whatever state it is, and deletes its data. */
  async remove(): Promise<void> {
    await this.end()
    await rm(this.folder, { recursive: true, force: true })
  }

  protected async end(): Promise<void> {
    const running = this.#running
    if (!running) return
    await running.signal(this.endSignal)
    await running.thaw()
    const late = setTimeout(() => void running.signal('SIGKILL'), 10_000)
    await running.ended
    clearTimeout(late)
  }
}
