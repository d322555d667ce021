import { expect } from 'vitest'
import { find } from '../../src/cli/find.js'
import { status } from '../../src/cli/status.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { entryOf } from '../../testkit/entry.js'
import { needsProcess, startPostgres } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest } from '../relay/relay-env.js'
import { runCommand } from '../support/command.js'

const STREAMS = 10_000
const ROWS = 1_000_000

/**
 * The best of three, in milliseconds: what this process computes, and Redis for it. Not by the clock, since the machine does
 * other things as well; what Postgres may take is bounded by statement timeouts.
 */
async function fastest(env: RelayEnv, work: () => Promise<unknown>): Promise<number> {
  const redisMs = async () => Number(/used_cpu_user:([\d.]+)/.exec(await env.redis.info('cpu'))?.[1]) * 1_000
  const times: number[] = []
  for (let n = 0; n < 3; n++) {
    const [began, redisBegan] = [process.cpuUsage(), await redisMs()]
    await work()
    const { user, system } = process.cpuUsage(began)
    times.push((user + system) / 1_000 + (await redisMs()) - redisBegan)
  }
  return Math.min(...times)
}

relayTest(
  'with 10,000 streams and 1,000,000 rows, status computes for less than four times what it takes to ask Redis for each stream, and find for less than that',
  async ({ createEnv, skip, onTestFinished }) => {
    needsProcess({ skip }, ['postgres'])
    // Its own: a new slot of another test would wait for the long transaction of this one.
    const server = await startPostgres({ syncs: false })
    onTestFinished(() => server.remove())
    const env = await createEnv({ database: await server.createDatabase() })
    const { lineage } = (await currentLineage(env.postgres, env.slot))!
    await env.postgres.query(
      `insert into outrider.outbox (stream, type, subject) select 's' || n % ${STREAMS}, 'order.placed', 'order-' || n
     from generate_series(1, ${ROWS}) as n`,
    )
    await env.postgres.query('analyze outrider.outbox')
    const { rows } = await env.postgres.query(
      `select id::text, stream, seq from outrider.outbox where seq > ${ROWS - 2 * STREAMS} order by seq`,
    )
    await env.postgres.query(
      `with s as (
       insert into outrider.session (session, lineage, hostname, pid, version, timeline)
       values (gen_random_uuid(), $1, 'web-1', 1, '0', 1) returning session
     )
     insert into outrider.head select $1, 's' || n, '', gen_random_uuid(), '0-1', session from s, generate_series(0, ${STREAMS - 1}) as n`,
      [lineage],
    )
    for (let n = 0; n < rows.length; n += 1_000) {
      const pipeline = env.redis.pipeline()
      for (const { id, stream } of rows.slice(n, n + 1_000)) pipeline.xadd(stream, '*', ...entryOf({}, { id }))
      await pipeline.exec()
    }
    for (let n = 0; n < STREAMS; n += 1_000) {
      const pipeline = env.redis.pipeline()
      for (let i = n; i < n + 1_000; i++)
        pipeline.xgroup('CREATE', `s${i}`, 'billing', '0').xgroup('CREATE', `s${i}`, 'mail', '$')
      await pipeline.exec()
    }
    // One long stream.
    const long = env.redis.pipeline()
    for (let n = 0; n < 100_000; n++)
      long.xadd('s1', '*', ...entryOf({}, { id: rows[0].id.replace(/.{12}$/, String(n).padStart(12, '0')) }))
    await long.exec()

    // What a processor takes to ask Redis for the same, with the client of the product.
    const plainMs = await fastest(env, async () => {
      for (let n = 0; n < STREAMS; n += 1_000) {
        const pipeline = env.redis.pipeline()
        for (let i = n; i < n + 1_000; i++) pipeline.xinfo('STREAM', `s${i}`).xinfo('GROUPS', `s${i}`)
        await pipeline.exec()
      }
    })
    const config = { slot: env.slot, redis: { url: env.server.url, connectTimeout: 5_000 } }
    const statusMs = await fastest(env, async () => {
      const { text } = await runCommand(status, env.database.url, { config, json: true })
      expect(JSON.parse(text)).toMatchObject({ moreStreams: STREAMS - 1_000, moreGroups: 2 * STREAMS - 1_000 })
    })
    const findMs = await fastest(env, async () => {
      const { text } = await runCommand(find, env.database.url, { config, json: true, args: [rows[1].id] })
      expect(JSON.parse(text).events).toMatchObject([{ published: { state: 'entry' } }])
    })
    const oldMs = await fastest(env, () => runCommand(find, env.database.url, { config, args: ['order-5'] }))
    // An event of its beginning, without a checkpoint to prove that it was published.
    const first = (await env.postgres.query('select id::text from outrider.outbox where seq = 1')).rows[0].id
    const missingMs = await fastest(env, () => runCommand(find, env.database.url, { config, args: [first] }))
    // 2.4 times, and a third; 1.4 s, 3.2 s and 0.4 s on a slow processor.
    expect({ plainMs, statusMs, findMs, missingMs, oldMs }).toSatisfy(
      () => statusMs < 4 * plainMs && Math.max(findMs, missingMs, oldMs) < plainMs,
    )
  },
  600_000,
)
