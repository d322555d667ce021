/**
 * How long a repair takes after Redis has lost everything, and what it costs.
 *
 *   npm run bench:repair -- [events] [streams]
 *
 * Prints the seconds from the loss until streaming continues, and the relay's memory at most. Machines differ: compare runs of one
 * machine.
 */
import { readFileSync } from 'node:fs'
import { outrider } from '../testkit/outrider.js'
import { RelayProcess } from '../testkit/relay-process.js'
import { startPostgres, startRedis, until } from '../testkit/services/index.js'

const [events = 1_000_000, streams = 10] = process.argv.slice(2).map(Number)
const PER_TRANSACTION = 1_000

const [postgres, server] = await Promise.all([startPostgres(), startRedis()])
const redis = server.client()
let relay: RelayProcess | undefined
try {
  const database = await postgres.createDatabase('bench')
  const variables = { OUTRIDER_POSTGRES_URL: database.url, OUTRIDER_REDIS_URL: server.url, OUTRIDER_ON_GAP: 'repair' }
  await outrider(['setup'], variables)
  relay = await RelayProcess.start(variables)
  await database.query(
    `do $$
     begin
       for n in 1..${Math.ceil(events / PER_TRANSACTION)} loop
         insert into outrider.outbox (stream, type, subject, data)
           select 'bench-' || ((n * ${PER_TRANSACTION} + i) % ${streams}), 'bench.happened', 'subject-' || (n % 1000),
                  json_build_object('n', n, 'text', repeat('x', 270))
             from generate_series(1, ${PER_TRANSACTION}) as i;
         commit;
       end loop;
     end $$`,
  )
  const published = async () => Number(/db0:keys=(\d+)/.exec(await redis.info('keyspace'))?.[1] ?? 0)
  const confirmed = `select count(*)::int as open from outrider.lineage, pg_replication_slots
    where slot_name = slot and pg_wal_lsn_diff(pg_current_wal_insert_lsn(), confirmed_lsn) > 100000`
  await until(async () => (await published()) >= streams && (await database.query(confirmed))[0]?.open === 0, {
    timeout: 600_000,
    message: 'all events to be published and confirmed',
  })
  const { pid } = relay
  const before = memory(pid)
  const lost = performance.now()
  await redis.flushall()
  const [repair] = await until(
    async () => {
      const found = await database.query(
        `select extract(epoch from repaired_at - opened_at)::float8 as seconds,
           (select found from outrider.repair)::float8 as found, (select put_back from outrider.repair)::float8 as put_back
         from outrider.incident where repaired_at is not null`,
      )
      return found.length > 0 && found
    },
    { timeout: 600_000, message: 'the gap to be repaired' },
  )
  await relay.streaming()
  const total = (performance.now() - lost) / 1000
  console.log(
    `${repair?.put_back ?? events} events in ${streams} streams put back ${Number(repair?.seconds).toFixed(1)} s after the gap was found, ` +
      `streaming ${total.toFixed(1)} s after the loss, ${memory(pid)} MB at most (${before} MB before)`,
  )
} finally {
  if (relay?.isRunning) await relay.kill()
  redis.disconnect()
  await Promise.all([postgres.remove(), server.remove()])
}

function memory(pid: number): number {
  const rss = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  return Math.round(Number(rss) / 1024)
}
