import pg from 'pg'
import { ExitCode, OutriderError } from '../base/failure.js'
import { parseDuration } from '../base/units.js'
import { parseRedisUrl } from '../config/redis-url.js'
import { type Config, OWN_OUTBOX } from '../config/schema.js'
import { partitionsKey, STREAM_NAME, streamKey } from '../event/names.js'
import { partitionOf } from '../event/partition.js'
import { inTransaction, sqlState } from '../postgres/client/transaction.js'
import { type Blockers, findBlockers, visiblePartitions } from '../postgres/setup/blockers.js'
import { newId } from '../producer/id.js'
import type { RedisClient } from '../redis/client/connect.js'
import { awaitEvent, endOf } from '../redis/streams/await-entry.js'
import type { Command, Context } from './command.js'
import { withDatabase } from './database.js'
import { withRedis } from './redis.js'

const TYPE = 'io.outrider.ping'

export const ping: Command = {
  summary: 'send one event through outbox, relay and stream, and say how long each step took',
  usage: `outrider ping [--stream <name>] [--wait <duration>]

Commits an event of type ${TYPE}, and waits until it is in its stream. Needs outrider_writer in Postgres, and in Redis
XINFO STREAM and XRANGE on the stream; the relay must be permitted to write to it, or it holds up every stream.
The row stays in the outbox and the entry in the stream. Workers that read that stream take the event for a dead letter,
unless they name its type in skip.

  --stream <name>     another stream than ping
  --wait <duration>   how long to wait for the event (30s)`,
  examples: [['outrider ping --stream orders', 'through another stream than ping']],
  docs: 'docs/operations.md#whether-an-event-comes-through',
  options: { stream: { type: 'string' }, wait: { type: 'string' } },
  async run(context) {
    const { stream, wait } = optionsOf(context)
    requireOwnOutbox(context.config)
    return withDatabase(context, 'outrider ping', async (database) => {
      const round = await send(context, database, stream, wait)
      if (round.entry !== undefined) return report(context, round)
      throw lost(round, wait, context.config, await findBlockers(database, context.config.slot, round.id))
    })
  },
}

interface Round {
  id: string
  stream: string
  key: string
  /** Undefined: not there in time. */
  entry: string | undefined
  /** From BEGIN to the end of COMMIT. */
  committedMs: number
  /** From then on. */
  appendedMs: number
}

async function send(context: Context, database: pg.Client, stream: string, wait: number): Promise<Round> {
  const id = newId()
  const partitions = await asWriter(database, () => visiblePartitions(database, stream))
  let soFar = ''
  // What Postgres says is thrown outside: `withRedis` would take it for a fault of Redis.
  let outcome: Round | { refused: unknown } | undefined
  const work = async (redis: RedisClient): Promise<ExitCode> => {
    const key = await keyOf(redis, stream, id, partitions)
    const end = await endOf(redis, key)
    // Nothing is committed where it could not be found again.
    await awaitEvent(redis, key, id, end, 0)
    const began = performance.now()
    try {
      await asWriter(database, () => insert(database, id, stream))
    } catch (refused) {
      outcome = { refused }
      return ExitCode.failed
    }
    const committed = performance.now()
    soFar = ` Event ${id} is committed: it is published all the same.`
    const entry = await awaitEvent(redis, key, id, end, wait)
    outcome = { id, stream, key, entry, committedMs: committed - began, appendedMs: performance.now() - committed }
    return ExitCode.done
  }
  await withRedis(context, 'outrider-ping', work, () => soFar)
  if (!outcome || 'refused' in outcome) throw outcome?.refused
  return outcome
}

function optionsOf({ flags }: Context): { stream: string; wait: number } {
  const { stream = 'ping', wait = '30s' } = flags
  if (typeof stream !== 'string' || !STREAM_NAME.test(stream)) {
    throw new OutriderError(
      `--stream: expected letters, digits, dots, underscores or hyphens, 200 at most, not beginning with "outrider", found "${stream}".`,
      { exitCode: ExitCode.usage },
    )
  }
  const found = parseDuration(wait)
  if (!found || found > MOST_WAIT) {
    throw new OutriderError(`--wait: expected a duration such as 30s, up to 1h, found "${wait}".`, {
      exitCode: ExitCode.usage,
    })
  }
  return { stream, wait: found }
}

const MOST_WAIT = 3_600_000

/** What a row of someone else's table has to hold, only they know. */
function requireOwnOutbox({ outbox }: Config): void {
  if (outbox.table === OWN_OUTBOX.table) return
  throw new OutriderError(
    `Expected the outbox to be ${OWN_OUTBOX.table}, found that outbox.table is ${outbox.table}: what a row of it must hold is ` +
      'not known here. Insert an event as your application does, and look for it in its stream.',
    { exitCode: ExitCode.usage },
  )
}

/** Where the relay puts a row without a subject. */
async function keyOf(redis: RedisClient, stream: string, id: string, known: number | undefined): Promise<string> {
  const count = known ?? Number((await redis.get(partitionsKey(stream))) ?? 0)
  return count > 0 ? streamKey(stream, partitionOf(id, count)) : stream
}

const insert = (database: pg.Client, id: string, stream: string): Promise<void> =>
  inTransaction(database, async () => {
    await database.query("set local lock_timeout = '5s'")
    await database.query('select outrider.publish($1, $2, $3, id => $4)', [
      stream,
      TYPE,
      '{"from":"outrider ping"}',
      id,
    ])
  })

async function asWriter<T>(database: pg.Client, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (sqlState(error) !== '42501') throw error
    const role = pg.escapeIdentifier(database.user ?? '<role>')
    throw new OutriderError(
      `Expected a role that may add events to ${OWN_OUTBOX.table}, found: ${(error as Error).message}. As the role that ran ` +
        `\`outrider setup\`: \`outrider setup --grant-writer ${database.user}\`, or in SQL \`grant outrider_writer to ${role}\`.`,
      { cause: error },
    )
  }
}

function report({ json, out }: Context, { committedMs, appendedMs, ...round }: Round): ExitCode {
  const [committed, appended] = [Math.round(committedMs), Math.round(appendedMs)]
  out(
    json
      ? JSON.stringify({ ...round, committedMs: committed, appendedMs: appended })
      : `committed  event ${round.id}, in ${committed} ms\nappended   entry ${round.entry} of stream ${round.key}, ${appended} ms after that`,
  )
  return ExitCode.done
}

function lost({ id, key }: Round, wait: number, config: Config, blockers: Blockers): OutriderError {
  const { found, todo } = blockerOf(config, blockers)
  return new OutriderError(
    `Expected event ${id} in stream ${key} within ${wait / 1000} s, found that it is not there: ${found}. ${todo} ` +
      'It is committed: it is published once nothing blocks it.',
  )
}

function blockerOf({ slot: name, redis }: Config, { slot, incidents }: Blockers): { found: string; todo: string } {
  if (incidents.length > 0) {
    const list = incidents.map(
      ({ id, kind, reason, stream }) => `${id} (${kind}, ${reason}${stream ? ` in ${stream}` : ''})`,
    )
    return {
      found: `open incidents ${list.join(', ')}`,
      todo: `\`outrider incidents show ${incidents[0]?.id}\` tells more.`,
    }
  }
  if (!slot?.here) {
    return {
      found: slot ? `slot ${name} belongs to database ${slot.database}` : `there is no slot ${name}`,
      todo: 'Is OUTRIDER_SLOT the same as that of the relay? If so, `outrider check` says what to do.',
    }
  }
  if (!slot.active) {
    return {
      found: `no process reads slot ${name}`,
      todo: 'Start `outrider relay`; where one runs, its log says what is wrong.',
    }
  }
  const { host, port } = parseRedisUrl(redis.url).nodes[0]
  return {
    found: `slot ${name} is being read, and no incident is to be seen`,
    todo: `Look at the relay's /readyz, and whether its Redis is the one at ${host}:${port}.`,
  }
}
