import { setTimeout as pause } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { countEntries } from './counts.js'
import { GROUPS } from './groups.js'
import type { Progress, State } from './progress.js'
import type { RunOptions } from './run.js'

const LOOK_EVERY = 50
/** The share of all effects after which no worker is killed any more, so that events are still in progress at each kill. */
const LAST_KILL = 0.9

/**
 * Kills the active relay after each equal part of the events is committed. Returns, for each kill, how many milliseconds
 * no event arrived.
 */
export async function killRelays(
  { relays, events, kills, signal }: RunOptions,
  redis: Redis,
  state: State,
  progress: Progress,
): Promise<number[]> {
  const takeovers: number[] = []
  const look = () => pause(LOOK_EVERY, undefined, { signal })
  for (let kill = 1; kill <= kills; kill++) {
    while (state.committed < (kill * events) / (kills + 1)) await look()
    await relays.kill()
    const killed = performance.now()
    const before = await countEntries(redis)
    progress.relayKilled(before)
    for (let now = before; now === before && now < events; now = await countEntries(redis)) await look()
    takeovers.push(performance.now() - killed)
    progress.takenOver(performance.now() - killed)
  }
  return takeovers
}

/** Kills any worker, at any time. */
export async function killWorkers(
  { workers, events, workerKills, signal }: RunOptions,
  state: State,
  progress: Progress,
): Promise<void> {
  const times = Array.from({ length: workerKills }, () => Math.random() * LAST_KILL).sort((a, b) => a - b)
  for (const time of times) {
    const done = () => GROUPS.reduce((sum, group) => sum + state.done[group], 0)
    while (done() < time * events * GROUPS.length) await pause(LOOK_EVERY, undefined, { signal })
    const group = await workers.kill(Math.random)
    progress.workerKilled(group, state.done[group])
  }
}
