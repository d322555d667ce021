import type pg from 'pg'
import { ExitCode, OutriderError } from '../base/failure.js'
import { inBatches } from '../base/in-batches.js'
import type { Config } from '../config/schema.js'
import { headKey } from '../event/names.js'
import { requireServer } from '../postgres/client/server.js'
import { requireStored } from '../postgres/setup/adoption.js'
import { loadHeadsAfter } from '../postgres/state/heads.js'
import { saveRedis, storedLineage } from '../postgres/state/lineage.js'
import { isOwnOutbox } from '../postgres/state/repair-state.js'
import { addressHash } from '../redis/client/address.js'
import type { RedisClient } from '../redis/client/connect.js'
import { requirePrimary } from '../redis/client/primary.js'
import type { Command, Context } from './command.js'
import { withDatabase } from './database.js'
import { withRedis } from './redis.js'

const ASKED_AT_ONCE = 100

export const moveRedis: Command = {
  summary: 'permit a planned move to the Redis that is configured here; asks first',
  usage: `outrider move-redis

Run it with the configuration of the new Redis, before the relay gets that. The relay then puts back what the outbox has.`,
  examples: [['OUTRIDER_REDIS_URL=rediss://new.example:6379 outrider move-redis', 'before the relay gets this URL']],
  docs: 'docs/moving.md',
  options: {},
  run(context) {
    return withDatabase(context, 'outrider move-redis', async (postgres) => {
      await requireServer(postgres)
      const work = (redis: RedisClient) => move(context, postgres, redis)
      return withRedis(context, 'outrider move-redis', work, () => ' Nothing was changed.')
    })
  },
}

/** What the new Redis has of the streams that events were published to. */
interface Present {
  streams: number
  /** Streams whose head is there. */
  present: number
}

async function move(context: Context, postgres: pg.Client, redis: RedisClient): Promise<ExitCode> {
  const { config, json, out } = context
  await requirePrimary(redis)
  requireRepairable(config)
  const { lineage } = requireStored(await storedLineage(postgres, config.slot), config.slot)
  const found = await findPresent(postgres, redis, lineage)
  // Dates only what is said: the relay finds out itself what cannot be put back, and records it.
  const emptied = await emptiedUntil(postgres, lineage)
  if (!json) out(describe(found, emptied, config))
  if (!(await context.ask('Publish to this Redis once the relay has its URL?'))) {
    if (!json) out('Nothing was changed.')
    return ExitCode.failed
  }
  await saveRedis(postgres, lineage, addressHash(config.redis.url))
  out(
    json
      ? JSON.stringify({ lineage, ...found, emptiedUntil: emptied ?? null })
      : 'Permitted. Now give the relay the URL of this Redis, then the workers: docs/moving.md.',
  )
  return ExitCode.done
}

/** Rows of a mapped table are not put back. */
function requireRepairable({ outbox }: Config): void {
  if (isOwnOutbox(outbox)) return
  throw new OutriderError(
    `Expected the outbox to be Outrider's own table, found ${outbox.table}: its events cannot be put back into an empty Redis. ` +
      'Move the data instead, by replication: docs/moving.md.',
  )
}

async function findPresent(postgres: pg.Client, redis: RedisClient, lineage: string): Promise<Present> {
  const found: Present = { streams: 0, present: 0 }
  for (let after = ''; ; ) {
    const page = [...(await loadHeadsAfter(postgres, lineage, after)).keys()]
    if (page.length === 0) return found
    found.streams += page.length
    await inBatches(page, ASKED_AT_ONCE, async (key) => {
      if ((await redis.hlen(headKey(key, lineage))) > 0) found.present += 1
    })
    after = page.at(-1)!
  }
}

async function emptiedUntil(postgres: pg.Client, lineage: string): Promise<string | undefined> {
  const { rows } = await postgres.query<{ until: Date }>('select until from outrider.emptied where lineage = $1', [
    lineage,
  ])
  return rows[0]?.until.toISOString()
}

function describe({ streams, present }: Present, emptied: string | undefined, { onGap }: Config): string {
  const lines = [`Events were published to ${streams} streams; this Redis has ${present} of them.`]
  if (present === streams) lines.push('The relay continues in them, and puts back what they lack.')
  else lines.push('The relay puts back the events that the outbox has, except those that were trimmed.')
  if (onGap === 'halt') lines.push('With `onGap: halt` it waits for `outrider incidents repair` first.')
  if (emptied !== undefined && present < streams) {
    lines.push(
      `Rows inserted before ${emptied} may have been emptied: unfinished events from before then are in the old Redis alone. Let`,
      'the workers finish them first. `outrider status`, with the URL of the old Redis, shows the oldest unfinished entry of each group.',
    )
  }
  return lines.join('\n')
}
