import { setTimeout as pause } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { readTruth } from '../../test/oracle/truth.js'
import { judge, readStreams, type Seen } from '../../test/oracle/verdict.js'
import { seeded } from '../../test/oracle/writer.js'
import type { DemoOptions } from './options.js'
import { ProgressBar } from './progress.js'
import type { Relays } from './relays.js'
import type { Stage } from './stage.js'
import { latenciesOf, type Outcome } from './summary.js'
import type { Terminal } from './terminal.js'
import { loadWebhooks, STREAMS } from './webhooks.js'
import { Tally, write } from './writer.js'

export const WRITERS = 6
const LOOK_EVERY = 50
/** How long nothing may arrive before the demo gives up, in milliseconds. */
const PATIENCE = 60_000

export interface RunOptions extends DemoOptions {
  stage: Stage
  relays: Relays
  terminal: Terminal
  signal: AbortSignal
}

/** Writers write, the relay is killed again and again, and everything must arrive; then it is judged. The relays are stopped. */
export async function run(options: RunOptions): Promise<Outcome> {
  const { stage, relays, terminal, events } = options
  const failed = new AbortController()
  const signal = AbortSignal.any([options.signal, failed.signal])
  const bar = new ProgressBar(terminal, events)
  const tally = new Tally()
  const redis = stage.redis.client()
  const began = Date.now()
  try {
    const [takeovers] = await Promise.all([
      killAll({ ...options, signal }, redis, tally, bar),
      writeAll({ ...options, signal }, tally),
      watch({ ...options, signal }, redis, tally, bar),
    ])
    bar.finish()
    // Stopped, they append nothing more: what is judged is final.
    await relays.stop()
    options.signal.throwIfAborted()
    return await terminal.step('Checking', 'every entry of every stream against what was committed', async () => {
      const seen = await readStreams(redis, STREAMS)
      const client = await stage.database.connect()
      const verdict = judge(await readTruth(client), seen)
      await client.end()
      const seconds = (lastOf(seen) - began) / 1000
      const latencies = latenciesOf(seen, tally.sent)
      const outcome = { verdict, tally, latencies, seconds, takeovers }
      return [outcome, `checked every entry of ${STREAMS.length} streams against what was committed`]
    })
  } finally {
    failed.abort()
    redis.disconnect()
  }
}

async function writeAll({ stage, events, signal }: RunOptions, tally: Tally): Promise<void> {
  const webhooks = loadWebhooks()
  await Promise.all(
    Array.from({ length: WRITERS }, async (_, writer) => {
      const client = await stage.connectWriter()
      const share = Math.floor((events * (writer + 1)) / WRITERS) - Math.floor((events * writer) / WRITERS)
      await write(client, { writer, events: share, webhooks, tally, random: seeded(writer + 1), signal })
      await client.end()
    }),
  )
}

/** Kills the active relay each time that another equal part was committed; how long each time nothing arrived, in milliseconds. */
async function killAll(options: RunOptions, redis: Redis, tally: Tally, bar: ProgressBar): Promise<number[]> {
  const { relays, events, kills, signal } = options
  const takeovers: number[] = []
  const look = () => pause(LOOK_EVERY, undefined, { signal })
  for (let kill = 1; kill <= kills; kill++) {
    while (tally.committed < (kill * events) / (kills + 1)) await look()
    await relays.kill()
    const killed = performance.now()
    const before = await countEntries(redis)
    bar.killed(before)
    for (let now = before; now === before && now < events; now = await countEntries(redis)) await look()
    takeovers.push(performance.now() - killed)
    bar.takenOver(performance.now() - killed)
  }
  return takeovers
}

/** Tells how far the events are, until all have arrived. */
async function watch(options: RunOptions, redis: Redis, tally: Tally, bar: ProgressBar): Promise<void> {
  const { relays, events, signal } = options
  let deadline = performance.now() + PATIENCE
  for (let last = 0; last < events; await pause(LOOK_EVERY, undefined, { signal })) {
    const published = await countEntries(redis)
    bar.show({ committed: tally.committed, published })
    if (published > last) deadline = performance.now() + PATIENCE
    last = published
    if (performance.now() < deadline) continue
    const found = `${published} of ${tally.committed} events are in the streams, and nothing more arrives`
    throw new Error(`Expected everything to arrive; ${found}. The relays said last:\n${relays.tail()}`)
  }
}

async function countEntries(redis: Redis): Promise<number> {
  const lengths = await Promise.all(STREAMS.map((stream) => redis.xlen(stream)))
  return lengths.reduce((sum, length) => sum + length, 0)
}

/** When the last entry was appended, by Redis' clock. */
const lastOf = (seen: Seen[]): number => seen.reduce((last, { entry }) => Math.max(last, Number.parseInt(entry, 10)), 0)
