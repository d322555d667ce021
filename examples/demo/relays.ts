import { setTimeout as pause } from 'node:timers/promises'
import { RelayProcess } from '../../testkit/relay-process.js'
import { until } from '../../testkit/services/until.js'

/** Milliseconds between two requests for the state: short enough to measure a takeover, long enough to use little CPU. */
const ASK_EVERY = 25
/** A machine may be busy with other things. */
const PATIENCE = 120_000

/** Two relays at all times: one carries events, the other waits to take over. */
export class Relays {
  readonly #env: Record<string, string>
  #relays: RelayProcess[] = []

  constructor(env: Record<string, string>) {
    this.#env = env
  }

  async start(): Promise<void> {
    this.#relays = await Promise.all([RelayProcess.start(this.#env), RelayProcess.start(this.#env)])
    const active = await this.active()
    this.#relays.sort((relay) => (relay === active ? -1 : 1))
    await this.#relays[1]?.is({ role: 'standby' }, PATIENCE)
  }

  /** In the order in which they were started, the active one first. */
  get all(): readonly RelayProcess[] {
    return this.#relays
  }

  /** Waits until one of them streams. */
  async active(): Promise<RelayProcess> {
    return until(
      async () => {
        const states = await Promise.all(this.#relays.map((relay) => relay.status()))
        const found = this.#relays[states.findIndex((status) => status?.state === 'streaming')]
        return found ?? pause(ASK_EVERY)
      },
      { timeout: PATIENCE, message: () => `a relay that streams\n${this.tail()}` },
    )
  }

  /** Kills the active relay with SIGKILL, and starts a new one as the next standby. */
  async kill(): Promise<void> {
    const victim = await this.active()
    await victim.kill()
    this.#relays.splice(this.#relays.indexOf(victim), 1)
    this.#relays.push(await RelayProcess.start(this.#env))
  }

  /** Sends SIGTERM: each relay first publishes the events that it has read. */
  async stop(): Promise<void> {
    await Promise.all(this.#relays.splice(0).map((relay) => relay.stop()))
  }

  async close(): Promise<void> {
    await Promise.all(this.#relays.splice(0).map((relay) => relay.isRunning && relay.kill()))
  }

  /** What they said last. */
  tail(): string {
    return this.#relays.map((relay) => relay.tail(8)).join('\n')
  }
}
