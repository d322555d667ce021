import { setTimeout as pause } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { compare, readStreams, type Seen } from '../../testkit/oracle/differences.js'
import { readTruth } from '../../testkit/oracle/truth.js'
import { seeded } from '../../testkit/oracle/writer.js'
import { countDone, countEntries } from './counts.js'
import type { DemoEnv } from './demo-env.js'
import { readEffects } from './effects.js'
import { GROUPS, perGroup } from './groups.js'
import { killRelays, killWorkers } from './kills.js'
import type { DemoOptions } from './options.js'
import { Progress, type State } from './progress.js'
import type { Relays } from './relays.js'
import { type GroupOutcome, latenciesOf, type Outcome } from './summary.js'
import type { Terminal } from './terminal.js'
import { loadWebhooks, STREAMS } from './webhooks.js'
import type { Workers } from './workers.js'
import { Tally, write } from './writer.js'

export const WRITERS = 6
const LOOK_EVERY = 50
/** The demo fails if no event arrives and none is processed for this many milliseconds. */
const PATIENCE = 60_000

export interface RunOptions extends DemoOptions {
  env: DemoEnv
  relays: Relays
  workers: Workers
  terminal: Terminal
  signal: AbortSignal
}

/**
 * Writers commit events while relays and workers are killed. Waits until all events are in the streams and every group
 * has processed them. Then stops relays and workers, and checks the streams and the effects.
 */
export async function run(options: RunOptions): Promise<Outcome> {
  const { env, relays, workers, terminal, events } = options
  const failed = new AbortController()
  const part = { ...options, signal: AbortSignal.any([options.signal, failed.signal]) }
  const progress = new Progress(terminal, events)
  const tally = new Tally()
  const state: State = { committed: 0, published: 0, done: perGroup(() => 0) }
  const redis = env.redis.client()
  const began = Date.now()
  try {
    const [takeovers] = await Promise.all([
      killRelays(part, redis, state, progress),
      killWorkers(part, state, progress),
      writeAll(part, tally),
      watch(part, redis, tally, state, progress),
    ])
    progress.finish()
    // Stopped, they append and do nothing more: what is judged is final.
    await Promise.all([relays.stop(), workers.stop()])
    options.signal.throwIfAborted()
    return await terminal.step('Checking', 'every entry and every effect against what was committed', async () => {
      const seen = await readStreams(redis, STREAMS)
      const client = await env.database.connect()
      const differences = compare(await readTruth(client), seen)
      const counts = await countDone(redis)
      const groups: GroupOutcome[] = []
      for (const name of GROUPS) {
        const [duplicates, kills] = [workers.duplicates[name], workers.kills[name]]
        const { pending } = counts[name]
        groups.push({ name, effects: await readEffects(client, name), pending, duplicates, kills })
      }
      await client.end()
      const seconds = (lastOf(seen) - began) / 1000
      const latencies = latenciesOf(seen, tally.sent)
      const outcome = { differences, groups, tally, latencies, seconds, takeovers }
      return [outcome, `checked every entry of ${STREAMS.length} streams and every effect`]
    })
  } finally {
    failed.abort()
    redis.disconnect()
  }
}

async function writeAll({ env, events, signal }: RunOptions, tally: Tally): Promise<void> {
  const webhooks = loadWebhooks()
  await Promise.all(
    Array.from({ length: WRITERS }, async (_, writer) => {
      const client = await env.connectWriter()
      const share = Math.floor((events * (writer + 1)) / WRITERS) - Math.floor((events * writer) / WRITERS)
      await write(client, { writer, events: share, webhooks, tally, random: seeded(writer + 1), signal })
      await client.end()
    }),
  )
}

/** Shows the progress until all events have arrived and every group has processed them. */
async function watch(options: RunOptions, redis: Redis, tally: Tally, state: State, progress: Progress): Promise<void> {
  const { relays, workers, events, signal } = options
  let deadline = performance.now() + PATIENCE
  for (let last = 0; ; await pause(LOOK_EVERY, undefined, { signal })) {
    const [published, groups] = await Promise.all([countEntries(redis), countDone(redis)])
    Object.assign(state, { committed: tally.committed, published, done: perGroup((group) => groups[group].done) })
    progress.show(state)
    const done = GROUPS.map((group) => state.done[group])
    if (Math.min(published, ...done) >= events) return
    if (workers.failure) throw new Error(workers.failure)
    const sum = done.reduce((a, b) => a + b, published)
    if (sum > last) deadline = performance.now() + PATIENCE
    last = sum
    if (performance.now() < deadline) continue
    const found = `${published} of ${tally.committed} events are in the streams, ${done.join(' and ')} of them done`
    throw new Error(
      `Expected everything to arrive and to be done, found that nothing moves: ${found}. The relays said last:\n` +
        `${relays.tail()}\nThe workers said last:\n${workers.tail()}`,
    )
  }
}

/** When the last entry was appended, by Redis' clock. */
const lastOf = (seen: Seen[]): number => seen.reduce((last, { entry }) => Math.max(last, Number.parseInt(entry, 10)), 0)
