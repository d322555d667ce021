import type { Lsn } from '../../src/postgres/client/lsn.js'
import { KEYS } from './postgres.js'
import type { World } from './world.js'

export interface Fault {
  name: string
  inflict(world: World): void
}

const keyOf = ({ random }: World): string => KEYS[random.int(KEYS.length)]!

/**
 * The walsender ends, as it must before a slot can be changed: the relay's session ends with it, or is not told. A session that repairs
 * does not read the slot.
 */
function disturb(world: World): void {
  const isFrozen = world.random.chance(0.3)
  // By the time, not by chance: the worlds of known seeds stay as they are.
  if (world.leader && !world.leader.streaming && world.time % 4 === 0) return
  if (isFrozen) world.freezeRelay()
  else world.endRelay()
}

const openHole =
  (hole: 'dropped' | 'narrowed') =>
  (world: World): void => {
    world.postgres.alterPublication(hole)
    world.holeUntil = world.time + world.random.int(15)
  }

/** Another server takes its place, which lacks the end of what this one has; this one may come back. */
function failOver(world: World): void {
  const { redis, copies, random, time } = world
  const data = redis.copy()
  redis.replace(copies.at(-1 - random.int(2)) ?? { streams: new Map(), heads: new Map() })
  if (random.chance(0.6)) world.failback = { at: time + 2 + random.int(60), data }
}

/**
 * From where the rows of a stream come again whose head is gone. One that was frozen may have confirmed them, and saved their head, since
 * the leader began: a leader that streams reads them again, and misses the head only where it expects one.
 */
function readAgainFrom({ leader, state }: World, key: string): Lsn {
  if (!leader?.streaming || leader.streaming.expects(key)) return state.confirmed
  return leader.server.confirmed
}

export const FAULTS: readonly Fault[] = [
  {
    name: 'FLUSHALL',
    inflict: ({ redis }) => {
      redis.data = { streams: new Map(), heads: new Map() }
    },
  },
  { name: 'DEL of a stream', inflict: (world) => void world.redis.data.streams.delete(keyOf(world)) },
  {
    name: 'DEL of a head',
    inflict: (world) => {
      const key = keyOf(world)
      world.redis.data.heads.delete(key)
      // No one knows any longer what is in the stream and comes again.
      const again = readAgainFrom(world, key)
      for (const { row } of world.redis.entriesFrom(key, null)) {
        if (row.transaction.commitLsn >= again) row.isForgotten = true
      }
    },
  },
  {
    name: 'DEL of a stream and its head',
    inflict: (world) => {
      const key = keyOf(world)
      world.redis.data.streams.delete(key)
      world.redis.data.heads.delete(key)
    },
  },
  {
    name: 'Redis rolled back',
    inflict: ({ redis, copies, random }) => {
      const copy = copies[random.int(copies.length)]
      if (copy) redis.replace(copy)
    },
  },
  {
    name: 'Redis rolled back a little',
    inflict: ({ redis, copies, random }) => {
      const copy = copies.at(-1 - random.int(3))
      if (copy) redis.replace(copy)
    },
  },
  { name: 'failover of Redis', inflict: failOver },
  { name: 'another failover of Redis', inflict: failOver },
  { name: 'relay killed', inflict: (world) => world.endRelay() },
  { name: 'relay frozen', inflict: (world) => world.freezeRelay() },
  {
    name: 'Postgres restarted',
    inflict: (world) => {
      world.postgres.restart()
      world.state.restart()
      world.endRelay()
    },
  },
  {
    name: 'slot dropped',
    inflict: (world) => {
      disturb(world)
      world.postgres.slot = undefined
      if (world.random.chance(0.3)) world.postgres.createSlot()
    },
  },
  {
    name: 'slot lost',
    inflict: (world) => {
      disturb(world)
      if (world.postgres.slot) world.postgres.slot.isLost = true
    },
  },
  {
    name: 'slot advanced to an odd LSN',
    inflict: (world) => {
      const { postgres, random } = world
      disturb(world)
      const { slot } = postgres
      if (!slot) return
      // WAL ends at a multiple of 8.
      const to = (slot.confirmed + BigInt(random.int(Number(postgres.lsn - slot.confirmed) + 1))) | 1n
      if (to < postgres.lsn) slot.confirmed = to
    },
  },
  {
    name: 'publication dropped and created again',
    inflict: ({ postgres }) => postgres.alterPublication(undefined),
  },
  { name: 'publication dropped', inflict: openHole('dropped') },
  { name: 'publication narrowed', inflict: openHole('narrowed') },
]
