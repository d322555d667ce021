import type { GroupState } from '../redis/streams/group-replies.js'
import type { Delivery } from './delivery/delivery.js'
import type { WaitingState } from './metrics.js'

/** State of a consumer. */
export interface Stats {
  group: string
  name: string
  state: 'running' | 'paused' | 'stopping' | 'stopped'
  /** Calls of handlers. */
  running: number
  /** Entries that this worker holds and that could run. */
  queued: number
  /** Entries that this worker holds until their next attempt. */
  waiting: number
  /** Since this worker last took an entry; undefined before the first. */
  idleSeconds: number | undefined
  /** What an ordered worker holds; undefined for an unordered one. */
  partitions: string[] | undefined
  /** Of the whole group. */
  streams: GroupState[]
}

/** By stream: how many events wait in Redis, and how long the one that this process or Redis knows for longest has failed. */
export function backoffStates(
  groups: readonly { key: string }[],
  waiting: readonly WaitingState[],
  deliveries: Iterable<Delivery>,
): WaitingState[] {
  const none = groups.map(({ key }) => ({ stream: key, count: 0, oldestSeconds: 0 }))
  const states = new Map([...none, ...waiting].map((state) => [state.stream, { ...state }]))
  for (const { group, failingSince } of deliveries) {
    if (failingSince === undefined) continue
    const state = states.get(group.stream) ?? { stream: group.stream, count: 0, oldestSeconds: 0 }
    state.oldestSeconds = Math.max(state.oldestSeconds, (Date.now() - failingSince) / 1000)
    states.set(group.stream, state)
  }
  return [...states.values()]
}
