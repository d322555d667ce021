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
const TIMEOUT_MS = 600_000

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
  const [inserted] = await database.query('select pg_current_wal_insert_lsn()::text as lsn')
  // Saved heads are WAL, too: what is confirmed reaches the last event, never the end.
  const isConfirmed = async () =>
    (await database.query('select from outrider.lineage where confirmed_lsn >= $1', [inserted?.lsn])).length > 0
  const published = async () => {
    const lengths = redis.pipeline()
    for (let n = 0; n < streams; n++) lengths.xlen(`bench-${n}`)
    const replies = (await lengths.exec()) ?? []
    return replies.reduce((sum, [, length]) => sum + Number(length), 0)
  }
  const total = Math.ceil(events / PER_TRANSACTION) * PER_TRANSACTION
  await until(async () => (await published()) >= total && (await isConfirmed()), {
    timeout: TIMEOUT_MS,
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
    { timeout: TIMEOUT_MS, message: 'the gap to be repaired' },
  )
  await relay.streaming()
  const untilStreaming = (performance.now() - lost) / 1000
  console.log(
    `${repair?.put_back ?? events} events in ${streams} streams put back ${Number(repair?.seconds).toFixed(1)} s after the gap was found, ` +
      `streaming ${untilStreaming.toFixed(1)} s after the loss, ${memory(pid)} MB at most (${before} MB before)`,
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
