/**
 * What a round of the self-audit costs.
 *
 *   npm run bench:self-audit -- [events] [streams] [rounds]
 *
 * Prints the CPU time of a round in the relay, and its share of a core with a round in five minutes. All events are published within
 * seconds, so that a round reads more entries than it does where they come over a minute.
 */
import { auditSample } from '../src/audit/sample.js'
import { connectPostgres, endPostgres } from '../src/postgres/client/connect.js'
import { currentLineage } from '../src/postgres/state/lineage.js'
import { outrider } from '../testkit/outrider.js'
import { RelayProcess } from '../testkit/relay-process.js'
import { startPostgres, startRedis, until } from '../testkit/services/index.js'

const [events = 60_000, streams = 50, rounds = 50] = process.argv.slice(2).map(Number)
const ROUND_EVERY_MS = 300_000
const PER_TRANSACTION = 10

const [postgres, server] = await Promise.all([startPostgres({ syncs: false }), startRedis()])
const redis = server.client()
let relay: RelayProcess | undefined
try {
  const database = await postgres.createDatabase('bench')
  const variables = { OUTRIDER_POSTGRES_URL: database.url, OUTRIDER_REDIS_URL: server.url }
  await outrider(['setup'], variables)
  relay = await RelayProcess.start(variables)
  await relay.streaming()
  const checkpoint = () =>
    database.query(
      `insert into outrider.checkpoint (lineage, lsn, snapshot)
       select lineage, pg_current_wal_insert_lsn(), pg_current_snapshot() from outrider.lineage`,
    )
  let total = 0
  const publish = async (count: number) => {
    await database.query(
      `do $$
       begin
         for n in 1..${Math.ceil(count / PER_TRANSACTION)} loop
           insert into outrider.outbox (stream, type, subject, data)
             select 'bench-' || ((n * ${PER_TRANSACTION} + i) % ${streams}), 'bench.happened', 'subject-' || (n % 1000),
                    json_build_object('n', n, 'text', repeat('x', 200))
               from generate_series(1, ${PER_TRANSACTION}) as i;
           commit;
         end loop;
       end $$`,
    )
    total += count
    await until(async () => (await added()) >= total, { timeout: 600_000, message: 'all to be published' })
  }
  const added = async () => {
    const lengths = await Promise.all(Array.from({ length: streams }, (_, n) => redis.xlen(`bench-${n}`)))
    return lengths.reduce((sum, length) => sum + length, 0)
  }
  // A minute, with as much before and after it.
  await publish(events)
  await checkpoint()
  await publish(events)
  await checkpoint()
  await publish(events)

  const client = await connectPostgres({ url: database.url, connectTimeout: 5_000 }, 'bench')
  const [own] = await database.query(
    'select slot, session::text from outrider.session join outrider.lineage using (lineage)',
  )
  const lineage = (await currentLineage(client, String(own?.slot)))!
  const { signal } = new AbortController()
  const options = { postgres: client, redis, lineage, session: String(own?.session), range: undefined, signal }
  const round = () => auditSample({ ...options, random: Math.random })
  await round()
  const before = process.cpuUsage()
  let rows = 0
  for (let n = 0; n < rounds; n++) rows += (await round())?.rows ?? 0
  const { user, system } = process.cpuUsage(before)
  const each = (user + system) / 1000 / rounds
  console.log(`${Math.round(rows / rounds)} rows a round`)
  console.log(`${each.toFixed(0)} ms of CPU a round, ${((100 * each) / ROUND_EVERY_MS).toFixed(3)} % of a core`)
  await endPostgres(client)
} finally {
  if (relay?.isRunning) await relay.kill()
  redis.disconnect()
  await Promise.all([postgres.remove(), server.remove()])
}
