import type { Config } from '../config/schema.js'
import type { RedisClient } from '../redis/client/connect.js'
import { DurabilityUnmetError, LEVELS, type Level, tryLevel } from '../redis/streams/durability.js'
import { blocker, type Finding, inConfiguration, info } from './finding.js'

/** The level that the relay would reach, by its own trial. */
export type Reached = { level: Level } | { wanted: Level; reason: string }

/** Not a lineage, so that a relay's own trial is left alone. */
const NAME = 'check'

/** Writes one key, which expires by itself, waits for it as the relay would, and deletes it. */
export async function tryDurability(client: RedisClient, durability: Config['durability']): Promise<Reached> {
  const levels: readonly Level[] = durability === 'auto' ? LEVELS : [durability]
  let refusal = ''
  try {
    for (const level of levels) {
      try {
        await tryLevel(client, level, NAME)
        return { level }
      } catch (error) {
        if (!(error instanceof DurabilityUnmetError) && (error as Error).name !== 'ReplyError') throw error
        refusal = (error as Error).message
      }
    }
  } finally {
    await client.del(`outrider:{trial}:${NAME}`).catch(() => {})
  }
  return { wanted: levels.at(-1) as Level, reason: refusal }
}

const MEANING: Record<Level, string> = {
  memory: "events are confirmed 5 s late, so that an ordinary failover replays them; Redis' crash is a gap",
  fsync: 'events are confirmed once they are on the disk of Redis',
  replicated: 'events are confirmed once a replica has them',
  'fsync+replicated': 'events are confirmed once they are on the disks of Redis and of a replica',
}

/** Pure. */
export function assessDurability(reached: Reached, durability: Config['durability']): Finding {
  if ('level' in reached) {
    return info({
      id: 'durability',
      is: `durability ${durability === 'auto' ? 'auto reaches ' : ''}${reached.level}`,
      why: MEANING[reached.level],
    })
  }
  const { wanted, reason } = reached
  return blocker({
    id: 'durability-unmet',
    is: `durability ${wanted} is not reached: ${reason.replace(/\.$/, '')}`,
    expected: EXPECTED[wanted],
    why: 'the relay would publish, and confirm nothing',
    fix: [inConfiguration('OUTRIDER_DURABILITY=auto')],
  })
}

const EXPECTED: Record<Level, string> = {
  memory: 'a Redis that takes writes',
  fsync: 'Redis 7.2 or Valkey, with appendonly yes',
  replicated: 'a replica that is connected',
  'fsync+replicated': 'Redis 7.2 or Valkey, and a connected replica, both with appendonly yes',
}
