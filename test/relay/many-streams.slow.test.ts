import { expect, onTestFinished } from 'vitest'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import { peakMemoryMiB } from '../../testkit/peak-memory.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { lostStreams } from './redis-loss-env.js'
import { relayTest as test } from './relay-env.js'

const STREAMS = 100_000
/** The limit of the Helm chart's relay container. */
const CHART_MEMORY_MIB = 256
/** As Node.js limits its heap by itself in a container of that size. */
const IN_CONTAINER = { NODE_OPTIONS: '--max-old-space-size=128' }

test.runIf(process.platform === 'linux')(
  `${STREAMS} streams, published to and taken over: within the memory of the chart, and what Redis lost of one is found`,
  { timeout: 700_000 },
  async ({ createEnv, skip }) => {
    needsProcess({ skip })
    // A server of its own: a walsender reads the WAL of all databases, and other tests write gigabytes.
    const server = await startPostgres()
    onTestFinished(() => server.remove())
    const env = await createEnv({ database: await server.createDatabase() })
    const peaks: number[] = []
    const kill = async (relay: RelayProcess) => {
      peaks.push(Math.round(peakMemoryMiB(relay.pid)))
      await relay.kill()
    }

    const first = await env.streamingRelay(IN_CONTAINER)
    await env.postgres.query(
      `insert into outrider.outbox (stream, type, subject, data)
       select 'customer-' || n, 'test.happened', n::text, '{}' from generate_series(1, $1) n`,
      [STREAMS],
    )
    const saved = async () => (await env.postgres.query('select count(*)::int as n from outrider.head')).rows[0].n
    await until(async () => (await saved()) === STREAMS, {
      message: () => `every head to be saved\n${first.tail(5)}`,
    })
    await kill(first)

    const second = await env.relay(IN_CONTAINER)
    const last = await env.insert('customer-1')
    await until(async () => (await env.ids('customer-1')).at(-1) === last, {
      message: () => `an event of the second session\n${second.tail(5)}`,
    })
    expect(await env.ids('customer-1')).toHaveLength(2)
    await kill(second)

    const { rows } = await env.postgres.query('select lineage from outrider.lineage')
    await env.redis.del('customer-77777', `outrider:{customer-77777}:head:${rows[0].lineage}`)
    const third = await env.relay(IN_CONTAINER)
    await until(async () => (await third.status())?.reason === 'stream_behind')
    expect(await listIncidents(env.postgres)).toMatchObject([{ kind: 'gap', reason: 'stream_behind' }])
    expect(Object.keys(await lostStreams(env))).toEqual(['customer-77777'])
    await kill(third)

    expect(peaks.map((peak) => [peak, peak < CHART_MEMORY_MIB])).toEqual(peaks.map((peak) => [peak, true]))
  },
)
