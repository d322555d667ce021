import pino from 'pino'
import { expect } from 'vitest'
import { auditSample } from '../../src/audit/sample.js'
import { connectPostgres } from '../../src/postgres/client/connect.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { connectRedis } from '../../src/redis/client/connect.js'
import { SelfAudit, type SelfAuditOptions } from '../../src/relay/self-audit/self-audit.js'
import { createRelayMetrics } from '../../src/telemetry/metrics.js'
import { until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from '../relay/relay-env.js'
import { checkpoint, insertSome, read } from '../relay/trim-env.js'

interface Line {
  msg: string
  missing?: number
  extra?: number
  altered?: number
  command?: string
}

/** Begins rounds beside the relay that leads, each of another minute; ends with the test. */
async function audits(env: RelayEnv, signal: AbortSignal) {
  const lines: Line[] = []
  const log = pino({}, { write: (line: string) => void lines.push(JSON.parse(line)) })
  const metrics = createRelayMetrics()
  const lineage = (await currentLineage(env.postgres, env.slot))!
  const { rows } = await env.postgres.query('select session::text from outrider.session order by number desc limit 1')
  const own = { lineage: lineage.lineage, session: rows[0].session }
  let place = 0
  new SelfAudit({
    ...{ log, metrics, auditSample, signal, intervalMs: 20 },
    stateStore: { own, lineage, holdsLock: async () => true } as unknown as SelfAuditOptions['stateStore'],
    connectPostgres: () => connectPostgres({ url: env.database.url, connectTimeout: 5_000 }, 'self-audit'),
    connectRedis: () => connectRedis({ url: env.server.url, connectTimeout: 5_000 }, 'self-audit'),
    random: () => {
      place = (place + 0.381966) % 1
      return place
    },
  }).start()
  const value = async (name: string, labels = {}) => {
    const found = await metrics.registry.getSingleMetric(`outrider_self_audit_${name}`)?.get()
    const wanted = JSON.stringify(labels)
    return found?.values.find((each) => JSON.stringify(each.labels) === wanted)?.value
  }
  return { lines, value }
}

test('an entry that is lost is found in a round, again in the next one, and no more once it is back', async ({
  env,
  onTestFinished,
}) => {
  const ended = new AbortController()
  onTestFinished(() => ended.abort())
  await env.streamingRelay()
  await insertSome(env, 'orders', 1)
  await checkpoint(env)
  // The last one: wherever a round begins between the checkpoints, it compares this row.
  const lost = (await insertSome(env, 'orders', 4)).at(-1)!
  await checkpoint(env)
  const { lines, value } = await audits(env, ended.signal)
  await until(async () => ((await value('rows_total')) ?? 0) > 0, { message: 'rows to be compared' })
  expect([await value('finding_rounds'), lines]).toEqual([0, []])

  const entries = await env.redis.xrange('orders', '-', '+')
  const [entry, fields] = entries.find(([, fields]) => fields.includes(lost))!
  await env.redis.xdel('orders', entry)
  await until(async () => ((await value('finding_rounds')) ?? 0) >= 2, { message: 'two rounds to find it' })
  expect(await value('findings', { kind: 'missing' })).toBe(1)
  expect(await value('findings', { kind: 'extra' })).toBe(0)
  expect(lines[0]).toMatchObject({ missing: 1, extra: 0, altered: 0 })
  expect(lines[0]?.msg).toMatch(
    /^self-audit found differences .*: run `outrider audit --since \d{4}-\d\d-\d\dT[\d:.]+Z`$/,
  )
  await env.redis.xadd('orders', '*', ...fields)
  await until(async () => (await value('finding_rounds')) === 0, { message: 'a round without findings' })
  expect(await value('findings', { kind: 'missing' })).toBe(0)
})

test('nothing is found while streams are trimmed and rows are emptied', async ({ env, configFile, onTestFinished }) => {
  const ended = new AbortController()
  onTestFinished(() => ended.abort())
  await env.streamingRelay({ OUTRIDER_CONFIG: await configFile('streams: { "*": { retention: 1s } }') })
  await env.redis.xgroup('CREATE', 'orders', 'billing', '0', 'MKSTREAM')
  await checkpoint(env)
  const { lines, value } = await audits(env, ended.signal)
  const trimmed = async () => {
    const facts = (await env.redis.xinfo('STREAM', 'orders')) as (string | number)[]
    const fact = (name: string) => Number(facts[facts.indexOf(name) + 1])
    return fact('entries-added') - fact('length')
  }
  const oldest = 'select seq from outrider.outbox order by seq limit 10'
  for (let emptied = 0; emptied < 10; ) {
    await insertSome(env, 'orders', 10)
    await checkpoint(env)
    await env.redis.xack('orders', 'billing', ...(await read(env, 'billing', 10)))
    // As when their bucket is emptied, some time after their entries have gone.
    if ((await trimmed()) < 30) continue
    await env.postgres.query(`delete from outrider.outbox where seq in (${oldest})`)
    emptied += 10
  }
  const rows = (await value('rows_total')) ?? 0
  await until(async () => ((await value('rows_total')) ?? 0) > rows + 100, { message: 'more rounds' })
  expect(lines).toEqual([])
})
