/**
 * How fast the relay carries a backlog from Postgres to Redis, and what it costs.
 *
 *   npm run bench -- [events] [rows per transaction]
 *
 * Prints events per second and microseconds of the relay's CPU per event. Machines differ: compare runs of one machine.
 */
import { readFileSync } from 'node:fs'
import { outrider } from '../testkit/outrider.js'
import { RelayProcess } from '../testkit/relay-process.js'
import { startPostgres, startRedis, until } from '../testkit/services/index.js'

const [events = 300_000, perTransaction = 10] = process.argv.slice(2).map(Number)
const STREAMS = 4
/** Clock ticks a second, as Linux counts CPU time in /proc. */
const TICKS = 100

const cpuSeconds = (pid: number): number => {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS
}

const [postgres, server] = await Promise.all([startPostgres(), startRedis()])
const redis = server.client()
let relay: RelayProcess | undefined
try {
  const database = await postgres.createDatabase('bench')
  const variables = { OUTRIDER_POSTGRES_URL: database.url, OUTRIDER_REDIS_URL: server.url }
  await outrider(['setup'], variables)
  await database.query(
    `do $$
     begin
       for n in 1..${Math.ceil(events / perTransaction)} loop
         insert into outrider.outbox (stream, type, subject, data)
           select 'bench-' || (n % ${STREAMS}), 'bench.happened', 'subject-' || (n % 1000),
                  json_build_object('n', n, 'text', repeat('x', 200))
             from generate_series(1, ${perTransaction});
         commit;
       end loop;
     end $$`,
  )
  const lengths = () =>
    Promise.all(Array.from({ length: STREAMS }, (_, n) => redis.xlen(`bench-${n}`))).then((all) =>
      all.reduce((sum, length) => sum + length, 0),
    )
  relay = await RelayProcess.start(variables)
  const { pid } = relay
  await until(async () => (await lengths()) > 0, { timeout: 60_000 })
  const [from, began, cpu] = [await lengths(), performance.now(), cpuSeconds(pid)]
  await until(async () => (await lengths()) >= events, { timeout: 300_000, message: 'the backlog to be carried' })
  const seconds = (performance.now() - began) / 1000
  const carried = (await lengths()) - from
  const used = cpuSeconds(pid) - cpu
  const rss = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  console.log(
    `${carried} events in ${seconds.toFixed(1)} s: ${Math.round(carried / seconds)} events/s, ` +
      `${((used / carried) * 1e6).toFixed(2)} µs of CPU an event, ${Math.round(Number(rss) / 1024)} MB at most`,
  )
} finally {
  if (relay?.isRunning) await relay.kill()
  redis.disconnect()
  await Promise.all([postgres.remove(), server.remove()])
}
