/**
 * What it costs to trim streams at 1,000 events a second.
 *
 *   npm run bench:growth -- [streams] [seconds]
 *
 * Publishes as many events as come in that time, which a group has finished, and measures the CPU time of the relay, of Redis and of the
 * relay's connections to Postgres: for as long with `retention: 0`, and then while a relay that has just started trims all entries for their
 * age. Prints the difference. The relay looks at a stream once a minute, so 60 seconds are what one look at each stream removes.
 */
import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { outrider } from '../testkit/outrider.js'
import { RelayProcess } from '../testkit/relay-process.js'
import { startPostgres, startRedis, until } from '../testkit/services/index.js'

const [streams = 50, seconds = 60] = process.argv.slice(2).map(Number)
const RATE = 1_000
const TICKS_PER_SECOND = 100

const events = Math.ceil((RATE * seconds) / streams) * streams
const names = Array.from({ length: streams }, (_, n) => `bench-${n}`)
const folder = await mkdtemp(join(tmpdir(), 'outrider-'))
const config = join(folder, 'outrider.yaml')
const keepFor = (retention: string) => writeFile(config, `streams: { "*": { retention: ${retention} } }`)

const [postgres, server] = await Promise.all([startPostgres(), startRedis()])
const redis = server.client()
let relay: RelayProcess | undefined
try {
  const database = await postgres.createDatabase('bench')
  const variables = {
    ...{ OUTRIDER_POSTGRES_URL: database.url, OUTRIDER_REDIS_URL: server.url, OUTRIDER_CONFIG: config },
  }
  await keepFor('0')
  await outrider(['setup'], variables)
  relay = await RelayProcess.start(variables)
  await relay.streaming()
  await database.query(
    `insert into outrider.outbox (stream, type, subject, data)
       select 'bench-' || (i % ${streams}), 'bench.happened', 'subject-' || i, json_build_object('text', repeat('x', 239))
       from generate_series(1, ${events}) as i`,
  )
  const added = async () => {
    const all = await Promise.all(names.map((name) => redis.xinfo('STREAM', name).catch(() => [])))
    return all.reduce<number>(
      (sum, info) => sum + Number((info as unknown[])[(info as unknown[]).indexOf('entries-added') + 1]),
      0,
    )
  }
  await until(async () => (await added()) === events, { timeout: 300_000, message: 'all events to be published' })
  for (const name of names) await redis.xgroup('CREATE', name, 'workers', '$')

  const entries = async () =>
    (await Promise.all(names.map((name) => redis.xlen(name)))).reduce((sum, one) => sum + one, 0)
  // An idle relay, after its start.
  await sleep(5_000)
  const idle = await usage(relay, async () => {
    const end = performance.now() + seconds * 1000
    while (performance.now() < end) {
      await entries()
      await sleep(1_000)
    }
  })
  await relay.stop()
  await keepFor(`${seconds}s`)
  relay = await RelayProcess.start(variables)
  await relay.streaming()
  const trimming = await usage(relay, async () => {
    while ((await entries()) > 0) await sleep(1_000)
  })
  const share = (name: 'relay' | 'redis' | 'postgres') => {
    const extra = trimming.cpu[name] - (idle.cpu[name] / idle.seconds) * trimming.seconds
    return `${name} ${((Math.max(0, extra) / seconds) * 100).toFixed(2)} %`
  }
  console.log(
    `${events} entries in ${streams} streams trimmed within ${trimming.seconds.toFixed(0)} s. Of one core, at ${RATE} events a second: ` +
      ['relay', 'redis', 'postgres'].map((name) => share(name as 'relay')).join(', '),
  )

  async function usage(relay: RelayProcess, during: () => Promise<void>) {
    const cpu = async () => {
      const info = await redis.info('cpu')
      const used = (what: string) => Number(new RegExp(`^used_cpu_${what}:(\\S+)`, 'm').exec(info)?.[1])
      const backends = await database.query<{ pid: number }>(
        `select pid from pg_stat_activity where application_name like 'outrider%'`,
      )
      const seconds = backends.map(({ pid }) => cpuSeconds(pid)).reduce((sum, one) => sum + one, 0)
      return { relay: cpuSeconds(relay.pid), redis: used('sys') + used('user'), postgres: seconds }
    }
    const [from, before] = [performance.now(), await cpu()]
    await during()
    const [seconds, after] = [(performance.now() - from) / 1000, await cpu()]
    const of = (name: keyof typeof after) => after[name] - before[name]
    return { seconds, cpu: { relay: of('relay'), redis: of('redis'), postgres: of('postgres') } }
  }
} finally {
  if (relay?.isRunning) await relay.kill()
  redis.disconnect()
  await Promise.all([postgres.remove(), server.remove(), rm(folder, { recursive: true })])
}

/** User and system time of a process. */
function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
}
