/**
 * How fast a worker does a backlog, and what the library costs beside a loop written by hand.
 *
 *   npm run bench:consumer -- [events] [rounds] [concurrency] [--against DIRECTORY]
 *
 * With `--against` it compares this build with the build of another checkout, which that directory holds: in each round both process the
 * same backlog on the same servers, one after the other, and which is first alternates. Postgres does not sync to the disk then. It prints
 * events per second, and the CPU time of this process and of Redis per event; the medians are of the ratios of each round. The first
 * round is a warm-up.
 *
 * Without it, in each round, one after the other: a loop by hand with the same guarantees (XREADGROUP, BEGIN, insert on conflict, effect,
 * COMMIT, XACK), the library with one event a transaction, and the library with batches of 500. Each effect is a row of a
 * table. Prints events per second and, by round, how they compare; machines differ, so quote the ratios.
 */
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import pg from 'pg'
import { z } from 'zod'
import type * as consumer from '../src/consumer/index.js'
import { defineEvent } from '../src/index.js'
import { newId } from '../src/producer/id.js'
import { entryOf } from '../testkit/entry.js'
import { outrider } from '../testkit/outrider.js'
import { type Redis, startPostgres, startRedis, until } from '../testkit/services/index.js'

// As it is published: tsx names every closure of the sources, each time that it is made.
type Library = typeof consumer
const library: Library = await import(new URL('../dist/consumer/index.js', import.meta.url).href)

const { values: flags, positionals } = parseArgs({ allowPositionals: true, options: { against: { type: 'string' } } })
const [events = 40_000, rounds = 5, concurrency = 10] = positionals.map(Number)
const STREAM = 'bench'
const BATCH = 500

const Counted = defineEvent({
  stream: STREAM,
  type: 'bench.counted',
  version: 1,
  data: z.object({ n: z.number(), text: z.string() }),
})

const EFFECT = 'insert into effect (run, event, n) values ($1, $2, $3)'

/** Each returns the seconds from its first command to its last acknowledgement. */
async function byHand(pool: pg.Pool, redis: Redis, group: string): Promise<number> {
  const began = performance.now()
  const client = redis.client()
  await client.xgroup('CREATE', STREAM, group, '0')
  for (let left = events; left > 0; ) {
    const reply = await client.xreadgroup('GROUP', group, 'me', 'COUNT', BATCH, 'BLOCK', 1000, 'STREAMS', STREAM, '>')
    const [, entries] = (reply as [string, [string, string[]][]][])[0] as [string, [string, string[]][]]
    const queue = [...entries]
    const lane = async () => {
      for (let entry = queue.shift(); entry; entry = queue.shift()) {
        const [id, flat] = entry
        const fields = new Map<string, string>()
        for (let n = 0; n < flat.length; n += 2) fields.set(flat[n] as string, flat[n + 1] as string)
        const data = Counted.data.parse(JSON.parse(fields.get('data') as string))
        const tx = await pool.connect()
        try {
          await tx.query('begin')
          const { rowCount } = await tx.query(
            'insert into outrider.inbox (consumer_group, source, id) values ($1, $2, $3) on conflict do nothing',
            [group, fields.get('source'), fields.get('id')],
          )
          if (rowCount === 1) await tx.query(EFFECT, [group, fields.get('id'), data.n])
          await tx.query('commit')
        } finally {
          tx.release()
        }
        await client.xack(STREAM, group, id)
      }
    }
    await Promise.all(Array.from({ length: concurrency }, lane))
    left -= entries.length
  }
  client.disconnect()
  return (performance.now() - began) / 1000
}

async function byLibrary(
  pool: pg.Pool,
  redis: Redis,
  group: string,
  batched: boolean,
  { createConsumer } = library,
): Promise<number> {
  const began = performance.now()
  const client = redis.client()
  const logger = { debug() {}, info() {}, warn: console.warn, error: console.error }
  const consumer = createConsumer({ redis: redis.url, db: pool, group, concurrency, logger })
  let called = 0
  if (batched) {
    consumer.onBatch(
      Counted,
      async (all, { tx }) => {
        called += all.length
        const values = [group, all.map(({ id }) => id), all.map(({ data }) => data.n)]
        await tx.query('insert into effect select $1, * from unnest($2::text[], $3::int[])', values)
      },
      { size: BATCH },
    )
  } else {
    consumer.on(Counted, async (event, { tx }) => {
      called += 1
      await tx.query(EFFECT, [group, event.id, event.data.n])
    })
  }
  await consumer.start()
  // Counted here, because the database has enough to do.
  await until(async () => called >= events && ((await client.xpending(STREAM, group)) as [number])[0] === 0, {
    timeout: 600_000,
    message: 'the backlog to be done',
  })
  const seconds = (performance.now() - began) / 1000
  await consumer.stop()
  client.disconnect()
  return seconds
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[Math.floor(values.length / 2)] as number

type Client = ReturnType<Redis['client']>

interface Cost {
  perSecond: number
  /** Microseconds of CPU time per event: of this process, and of Redis. */
  own: number
  redis: number
}

async function costOf(client: Client, run: () => Promise<number>): Promise<Cost> {
  const [ownBefore, redisBefore] = [process.cpuUsage(), await redisCpu(client)]
  const seconds = await run()
  const { user, system } = process.cpuUsage(ownBefore)
  const redis = (await redisCpu(client)) - redisBefore
  return { perSecond: events / seconds, own: (user + system) / events, redis: redis / events }
}

/** Microseconds. */
async function redisCpu(client: Client): Promise<number> {
  const info = await client.info('cpu')
  const [user, system] = [/used_cpu_user:([\d.]+)/, /used_cpu_sys:([\d.]+)/].map((field) =>
    Number(field.exec(info)?.[1] ?? 0),
  )
  return ((user as number) + (system as number)) * 1e6
}

/** By kind: how this build compares with the one in that directory. */
async function compare(pool: pg.Pool, redis: Redis, directory: string): Promise<void> {
  const other: Library = await import(pathToFileURL(resolve(directory, 'dist/consumer/index.js')).href)
  const client = redis.client()
  const ratios: Record<string, Record<keyof Cost, number>[]> = { 'one by one': [], batched: [] }
  for (let round = 0; round <= rounds; round++) {
    for (const [kind, measured] of Object.entries(ratios)) {
      const costs = new Map<Library, Cost>()
      for (const build of round % 2 === 0 ? [library, other] : [other, library]) {
        const group = `${kind.replaceAll(' ', '-')}-${round}-${build === library ? 'this' : 'other'}`
        costs.set(build, await costOf(client, () => byLibrary(pool, redis, group, kind === 'batched', build)))
        await checkEffects(pool, group)
        await client.xgroup('DESTROY', STREAM, group)
        await pool.query('truncate effect, outrider.inbox')
      }
      const [own, others] = [costs.get(library) as Cost, costs.get(other) as Cost]
      const text = (cost: Cost) =>
        `${Math.round(cost.perSecond)}/s (${cost.own.toFixed(1)} + ${cost.redis.toFixed(1)} us)`
      console.log(`round ${round}: ${kind}: this ${text(own)}, other ${text(others)}`)
      if (round === 0) continue
      measured.push({
        perSecond: own.perSecond / others.perSecond,
        own: own.own / others.own,
        redis: own.redis / others.redis,
      })
    }
  }
  for (const [kind, measured] of Object.entries(ratios)) {
    const of = (name: keyof Cost) => median(measured.map((ratio) => ratio[name])).toFixed(3)
    console.log(
      `median: ${kind}: ${of('perSecond')} of the speed of the other build, with ${of('own')} of its CPU time and ${of('redis')} of that of Redis`,
    )
  }
  client.disconnect()
}

async function checkEffects(pool: pg.Pool, group: string): Promise<void> {
  const { rows } = await pool.query('select count(*)::int as effects from effect where run = $1', [group])
  if (rows[0].effects !== events) throw new Error(`Expected ${events} effects, found ${rows[0].effects}`)
}

/** By round: how the library compares with the loop by hand. */
async function measure(pool: pg.Pool, redis: Redis): Promise<void> {
  const kinds = {
    'by hand': (group: string) => byHand(pool, redis, group),
    'one by one': (group: string) => byLibrary(pool, redis, group, false),
    batched: (group: string) => byLibrary(pool, redis, group, true),
  }
  const ratios: { one: number[]; batched: number[] } = { one: [], batched: [] }
  for (let round = 1; round <= rounds; round++) {
    const rates: Record<string, number> = {}
    for (const [kind, run] of Object.entries(kinds)) {
      const group = `${kind.replaceAll(' ', '-')}-${round}`
      const seconds = await run(group)
      await checkEffects(pool, group)
      rates[kind] = events / seconds
    }
    ratios.one.push((rates['one by one'] as number) / (rates['by hand'] as number))
    ratios.batched.push((rates.batched as number) / (rates['one by one'] as number))
    const texts = Object.entries(rates).map(([kind, rate]) => `${kind} ${Math.round(rate)}/s`)
    console.log(`round ${round}: ${texts.join(', ')}`)
  }
  console.log(
    `median: one by one ${median(ratios.one).toFixed(2)} of the loop by hand, batched ${median(ratios.batched).toFixed(1)} times one by one`,
  )
}

// What the disk takes for a commit is no property of a build, and varies more than builds differ.
const postgres = await startPostgres({ syncs: flags.against === undefined })
const redis = await startRedis()
try {
  const database = await postgres.createDatabase('bench')
  const owner = await database.connect()
  await outrider(['setup', '--only', 'inbox'], { OUTRIDER_POSTGRES_URL: database.url, OUTRIDER_REDIS_URL: redis.url })
  await owner.query('create table effect (run text, event text, n int)')
  await owner.end()
  const pool = new pg.Pool({ connectionString: database.url, max: concurrency })
  const client = redis.client()
  for (let n = 0; n < events; ) {
    const pipeline = client.pipeline()
    for (let more = 0; more < 1000 && n < events; more++, n++) {
      pipeline.xadd(
        STREAM,
        '*',
        ...entryOf({ n, text: 'x'.repeat(200) }, { id: newId(), type: Counted.type, subject: `s-${n % 1000}` }),
      )
    }
    await pipeline.exec()
  }
  client.disconnect()
  if (flags.against === undefined) await measure(pool, redis)
  else await compare(pool, redis, flags.against)
  await pool.end()
} finally {
  await redis.remove()
  await postgres.remove()
}
