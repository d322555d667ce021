/**
 * How many bytes an event takes, in Postgres and in Redis.
 *
 *   npm run bench:sizing -- [events] [payload bytes]
 *
 * Prints a line for each thing that takes room, in bytes. They depend on versions and on the lengths of names, little on the machine.
 */
import type { Redis as Client } from 'ioredis'
import { newId } from '../src/producer/id.js'
import { outrider } from '../testkit/outrider.js'
import { RelayProcess } from '../testkit/relay-process.js'
import { startPostgres, startRedis, until } from '../testkit/services/index.js'

const [events = 100_000, payload = 250] = process.argv.slice(2).map(Number)
const PER_TRANSACTION = 100
const MANY = 1_000

const [postgres, server] = await Promise.all([startPostgres({ syncs: false }), startRedis()])
const redis = server.client()
let relay: RelayProcess | undefined
try {
  const database = await postgres.createDatabase('bench')
  const variables = { OUTRIDER_POSTGRES_URL: database.url, OUTRIDER_REDIS_URL: server.url }
  const sum = async (sql: string) => Number((await database.query(sql))[0]?.sum)
  await outrider(['setup'], variables)

  const wal = () => sum(`select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') as sum`)
  const before = { wal: await wal(), table: await sum(outboxBytes()) }
  await database.query(
    `do $$
     begin
       for n in 1..${Math.ceil(events / PER_TRANSACTION)} loop
         insert into outrider.outbox (stream, type, subject, data)
           select 'bench-orders', 'bench.happened', 'subject-' || i, json_build_object('text', repeat('x', ${payload - 11}))
             from generate_series(1, ${PER_TRANSACTION}) as i;
         commit;
       end loop;
     end $$`,
  )
  say('WAL of an insert, 100 in a transaction', ((await wal()) - before.wal) / events)
  say('row of the outbox, with its indexes', ((await sum(outboxBytes())) - before.table) / events)

  relay = await RelayProcess.start(variables)
  await until(async () => (await redis.xlen('bench-orders')) === events, {
    timeout: 600_000,
    message: 'all events to be published',
  })
  await relay.kill()
  say('entry of a stream', Number(await redis.call('MEMORY', 'USAGE', 'bench-orders', 'SAMPLES', 0)) / events)

  const grown = async (what: () => Promise<unknown>) => {
    const from = await used(redis)
    await what()
    return (await used(redis)) - from
  }
  await redis.xgroup('CREATE', 'bench-orders', 'workers', '0')
  const pending = await grown(() =>
    redis.xreadgroup('GROUP', 'workers', 'one', 'COUNT', 10_000, 'STREAMS', 'bench-orders', '>'),
  )
  say('entry that a worker has not finished, more', pending / Math.min(10_000, events))
  const groups = await grown(async () => {
    for (let n = 0; n < MANY; n++) await redis.xgroup('CREATE', 'bench-orders', `group-${n}`, '$')
  })
  say('group of a stream', groups / MANY)
  const streams = await grown(async () => {
    relay = await RelayProcess.start(variables)
    const one = `insert into outrider.outbox (stream, type, data) select 'bench-' || i, 'bench.happened', '{}' from generate_series(1, ${MANY}) as i`
    await database.query(one)
    await until(async () => (await redis.exists(`bench-${MANY}`)) === 1, { message: 'all streams to be there' })
    await relay.kill()
  })
  say('stream with its head and its first event', streams / MANY)

  const inbox = () => sum(`select pg_total_relation_size('outrider.inbox') as sum`)
  const empty = await inbox()
  for (let n = 0; n < events; n += MANY) {
    const ids = Array.from({ length: MANY }, () => newId())
    const insert = `insert into outrider.inbox (consumer_group, source, id) select 'workers', '/bench', id from unnest($1::text[]) as id`
    await database.query(insert, [ids])
  }
  say('row of the inbox, with its indexes', ((await inbox()) - empty) / events)
} finally {
  if (relay?.isRunning) await relay.kill()
  redis.disconnect()
  await Promise.all([postgres.remove(), server.remove()])
}

function outboxBytes(): string {
  return `select sum(pg_total_relation_size(relid)) from pg_partition_tree('outrider.outbox') where isleaf`
}

async function used(client: Client): Promise<number> {
  return Number(/^used_memory:(\d+)/m.exec(await client.info('memory'))?.[1])
}

function say(what: string, bytes: number): void {
  console.log(`${bytes.toFixed(0).padStart(6)}  ${what}`)
}
