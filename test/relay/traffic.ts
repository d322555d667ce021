import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import { compare, countDifferences, readStreams } from '../../testkit/oracle/differences.js'
import { findEarlyConfirms, type Sample, sampleConfirmed } from '../../testkit/oracle/early-confirm.js'
import { createTruth, readTruth, type Truth } from '../../testkit/oracle/truth.js'
import { createSubjects, seeded, write } from '../../testkit/oracle/writer.js'
import { until } from '../../testkit/services/index.js'
import type { RelayEnv } from './relay-env.js'

export interface TrafficOptions {
  streams?: string[]
  writers?: number
  /** Each writer stops by itself after so many; by default only `finish` ends it. */
  events?: number
  payload?: (random: () => number) => string
  /** Milliseconds between a writer's transactions, so that the load leaves the machine to what is tested. */
  every?: number
}

/** Writers that commit events with their truth, while a test does something to what stands in between. */
export class Traffic {
  committed = 0
  readonly samples: Sample[] = []
  readonly streams: string[]
  readonly #stop = new AbortController()
  readonly #env: RelayEnv
  #writers: Promise<unknown> = Promise.resolve()

  private constructor(env: RelayEnv, streams: string[]) {
    this.#env = env
    this.streams = streams
  }

  static async start(env: RelayEnv, options: TrafficOptions = {}): Promise<Traffic> {
    const { streams = ['orders', 'payments', 'users'], writers = 2, every = 20 } = options
    const events = options.events ?? Number.POSITIVE_INFINITY
    const traffic = new Traffic(env, streams)
    await createTruth(env.postgres)
    await createSubjects(env.postgres, 60)
    const payload = options.payload ?? ((random) => JSON.stringify({ n: random(), text: 'æ'.repeat(random() * 400) }))
    traffic.#writers = Promise.all(
      Array.from({ length: writers }, async (_, writer) => {
        const client = await env.database.connect()
        await write(client, {
          writer,
          events,
          streams,
          subjects: 60,
          payload,
          random: seeded(writer + 1),
          async committed(count) {
            traffic.committed += count
            await pause(every)
          },
          signal: traffic.#stop.signal,
        }).finally(() => client.end())
      }),
    )
    return traffic
  }

  /** Waits until so many more events were committed. */
  async more(events: number): Promise<void> {
    const goal = this.committed + events
    await until(() => this.committed >= goal, { message: () => `${goal} events committed, of ${this.committed}` })
  }

  /** What the slot has confirmed now, and what the streams hold: `finish` holds one against the other. */
  async sample(): Promise<void> {
    this.samples.push(await sampleConfirmed(this.#env.postgres, this.#env.slot, this.#env.redis, this.streams))
  }

  /** Ends the writers. Resolves with what they committed. */
  async stop(): Promise<Truth[]> {
    this.#stop.abort()
    await this.#writers
    return readTruth(this.#env.postgres)
  }

  /** Ends the writers, waits until everything has arrived, and expects it to be there once, unaltered and in order. */
  async finish(timeout?: number): Promise<Truth[]> {
    const truth = await this.stop()
    const { redis: client } = this.#env
    let length = 0
    await until(
      async () => {
        const lengths = await Promise.all(this.streams.map((stream) => client.xlen(stream)))
        length = lengths.reduce((sum, each) => sum + each, 0)
        return length >= truth.length
      },
      { timeout, message: () => `${truth.length} events in their streams, found ${length}` },
    )
    const seen = await readStreams(client, this.streams)
    const differences = countDifferences(compare(truth, seen))
    expect(differences).toEqual({ lost: 0, phantom: 0, duplicated: 0, divergent: 0, disordered: 0 })
    expect(findEarlyConfirms(this.samples, seen)).toEqual([])
    return truth
  }
}
