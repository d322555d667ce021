import { headKey } from '../../src/event/names.js'
import { type HealingEnv, KEYS, PARTITIONS, SLOT, withoutWalsender } from './healing-env.js'
import type { Straddlers } from './straddlers.js'
import type { Writers } from './writers.js'

export interface LossContext {
  env: HealingEnv
  writers: Writers
  straddlers: Straddlers
  /** A number from 0 to 1; seeded. */
  random(): number
}

export interface Loss {
  what: string
  /** Does a gap follow whatever the moment? After the others the slot may still have everything. */
  isCertain?: true
  /** Rows pass unseen while later ones are published, until the relay looks: what comes back is late. */
  leavesHole?: true
  /** The relay first listens for another one. */
  isSlow?: true
  /** Does it; resolves with what a reader of the report has to know. */
  inflict(context: LossContext): Promise<string | undefined>
}

const PUBLICATION =
  "create publication outrider for table only outrider.outbox with (publish = 'insert', publish_via_partition_root = true)"

const pick = <T>(random: () => number, all: readonly T[]): T => all[Math.floor(random() * all.length)]!

const deleteKey = async ({ env }: LossContext, key: string, named: string) => {
  await env.redis.client.del(key)
  return named
}

/** Events that the other server, or the copy, will not have; mostly until the slot will not send them again. */
const passesUnseen = async ({ env, writers, random }: LossContext): Promise<void> => {
  await writers.more(10 + random() * 100)
  if (random() < 0.7 && env.hasRelay && (await env.status())?.state === 'streaming') await env.untilConfirmed()
}

const partitions = KEYS.filter((key) => key.includes(':'))
const whole = Object.keys(PARTITIONS).filter((stream) => PARTITIONS[stream] === 0)

/**
 * Rows are written between the two statements, and not decoded. One transaction begins before, and ends while the repair is under way,
 * or after it.
 */
const leaveHole = async (context: LossContext, alter: string, restore: string): Promise<undefined> => {
  const { env, writers, straddlers, random } = context
  const openMs = random() < 0.5 ? random() * 10_000 : undefined
  const writeAgain = await straddlers.begin({ openMs, isPrepared: random() < 0.5 })
  await env.postgres.query(alter)
  await writeAgain()
  await writers.more(1 + random() * 200)
  await env.postgres.query(restore)
}

export const LOSSES: readonly Loss[] = [
  {
    what: 'FLUSHALL',
    isCertain: true,
    inflict: async ({ env }) => {
      await env.redis.client.flushall()
      return undefined
    },
  },
  {
    what: 'DEL of a stream',
    isCertain: true,
    inflict: (context) => {
      const key = pick(context.random, whole)
      return deleteKey(context, key, key)
    },
  },
  {
    what: 'DEL of a partition',
    isCertain: true,
    inflict: (context) => {
      const key = pick(context.random, partitions)
      return deleteKey(context, key, key)
    },
  },
  {
    what: 'DEL of a head',
    isCertain: true,
    inflict: (context) => {
      const key = pick(context.random, KEYS)
      return deleteKey(context, headKey(key, context.env.lineage), key)
    },
  },
  {
    what: 'DEL of a stream and its head',
    isCertain: true,
    inflict: async ({ env, random }) => {
      const key = pick(random, KEYS)
      await env.redis.client.del(key, headKey(key, env.lineage))
      return key
    },
  },
  {
    what: 'Redis rolled back to an older copy',
    inflict: async (context) => {
      const { env, random } = context
      // Or what was remembered then: before repairs that came since.
      if (random() < 0.6 || !env.redis.hasCopy) {
        await env.redis.remember()
        await passesUnseen(context)
      }
      await env.redis.rollBack()
      return undefined
    },
  },
  {
    what: 'failover of Redis to a replica that lags',
    inflict: async (context) => {
      const { redis } = context.env
      await redis.forkOther()
      await passesUnseen(context)
      await redis.swap()
      return undefined
    },
  },
  {
    what: 'failback of Redis to the old primary',
    inflict: async (context) => {
      const { redis } = context.env
      if (!redis.hasOld) {
        await redis.forkOther()
        await passesUnseen(context)
      }
      await redis.swap()
      return undefined
    },
  },
  {
    what: 'slot dropped',
    isCertain: true,
    isSlow: true,
    inflict: async ({ env, random }) => {
      await withoutWalsender(env, () => env.postgres.query('select pg_drop_replication_slot($1)', [SLOT]))
      if (random() < 0.7) return undefined
      const created = await env.postgres
        .query("select pg_create_logical_replication_slot($1, 'pgoutput')", [SLOT])
        .catch(() => undefined)
      return created && 'made again by hand'
    },
  },
  {
    what: 'slot advanced to an odd LSN',
    isCertain: true,
    inflict: async ({ env, writers, random }) => {
      await writers.more(1)
      let lsn = ''
      await withoutWalsender(env, async () => {
        const { rows } = await env.postgres.query(
          `select end_lsn::text from pg_replication_slots as s, pg_replication_slot_advance(s.slot_name, '0/0'::pg_lsn + (
             1 + 2 * floor(((confirmed_flush_lsn - '0/0')
               + (pg_current_wal_flush_lsn() - confirmed_flush_lsn) * $2::float8::numeric) / 2)))
           where s.slot_name = $1`,
          [SLOT, random()],
        )
        lsn = rows[0].end_lsn
      })
      return lsn
    },
  },
  {
    what: 'publication dropped and created again at once',
    isCertain: true,
    inflict: async ({ env }) => {
      await env.postgres.query(`begin; drop publication outrider; ${PUBLICATION}; commit`)
      return undefined
    },
  },
  {
    what: 'publication dropped, and created again after writes',
    isCertain: true,
    leavesHole: true,
    isSlow: true,
    inflict: (context) => leaveHole(context, 'drop publication outrider', PUBLICATION),
  },
  {
    what: 'publication narrowed by a row filter, and restored after writes',
    isCertain: true,
    leavesHole: true,
    inflict: (context) =>
      leaveHole(
        context,
        "alter publication outrider set table only outrider.outbox where (stream <> 'orders')",
        'alter publication outrider set table only outrider.outbox',
      ),
  },
  {
    what: 'table taken out of the publication, and added again after writes',
    isCertain: true,
    leavesHole: true,
    inflict: (context) =>
      leaveHole(
        context,
        'alter publication outrider drop table only outrider.outbox',
        'alter publication outrider add table only outrider.outbox',
      ),
  },
]
