import { expect } from 'vitest'
import { incidents } from '../../src/cli/incidents.js'
import { status } from '../../src/cli/status.js'
import { until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from '../relay/relay-env.js'
import { REPAIR, repaired, someEvents } from '../relay/repair-env.js'
import { runCommand } from '../support/command.js'

const of = (env: RelayEnv) => ({
  slot: env.slot,
  redis: { url: env.server.url, connectTimeout: 10_000 },
})

const show = async (env: RelayEnv) => {
  const url = env.variables.OUTRIDER_POSTGRES_URL as string
  const { text } = await runCommand(incidents, url, { config: of(env), args: ['show', '1'] })
  return /^next +(.*)$/m.exec(text)?.[1]
}

const findings = async (env: RelayEnv): Promise<{ id: string; is: string; next: string[] }[]> => {
  const url = env.variables.OUTRIDER_POSTGRES_URL as string
  return JSON.parse((await runCommand(status, url, { config: of(env), json: true })).text).findings
}

/** Runs a command that the status names. */
const paste = async (env: RelayEnv, command: string) =>
  runCommand(incidents, env.database.url, { config: of(env), args: command.split(' ').slice(2) })

test('an empty Redis at another address: the command that has events published to it from now on', async ({ env }) => {
  const relay = await env.streamingRelay(REPAIR)
  const ids = await someEvents(env)
  await env.postgres.query("update outrider.lineage set redis = 'another address'")
  await env.redis.flushall()
  await relay.is({ role: 'halted', reason: 'other_redis' })
  expect(await show(env)).toMatch(
    /^The relay has halted its repair \(other_redis\): Expected the Redis .* run `outrider incidents repair 1`: .* Or `outrider incidents close 1`/,
  )
  const [halting] = await findings(env)
  expect(halting).toMatchObject({
    id: 'incident-halting',
    is: expect.stringContaining('Correct the URL'),
    next: ['outrider incidents show 1', 'outrider incidents repair 1'],
  })
  await paste(env, halting!.next[1]!)
  await repaired(env)
  expect(await env.ids('orders')).toEqual(ids)
})

test('too little memory in Redis: what is needed; once it is there, the events are put back', async ({ env }) => {
  const relay = await env.streamingRelay(REPAIR)
  const ids: string[] = []
  for (let n = 0; n < 10; n++) ids.push(await env.insert('orders', 'x'.repeat(500_000)))
  await until(async () => (await env.ids('orders')).length === ids.length)
  await until(
    async () => (await env.postgres.query('select from outrider.head where event_id = $1', [ids.at(-1)])).rowCount,
  )
  await env.redis.flushall()
  const used = Number(/^used_memory:(\d+)/m.exec(await env.redis.info('memory'))![1])
  await env.redis.config('SET', 'maxmemory', String(used + 3_000_000))
  await relay.is({ role: 'halted', reason: 'repair_lacks_memory' })
  const halted =
    /^The relay has halted its repair \(repair_lacks_memory\): .* Raise maxmemory, or free memory, .*: `outrider incidents close 1`\.$/
  expect(await show(env)).toMatch(halted)
  const looks = () => relay.metric('outrider_errors_total{target="outrider",code="repair_lacks_memory"}')
  const seen = (await looks()) ?? 0
  await until(async () => {
    expect(await show(env)).toMatch(halted)
    return ((await looks()) ?? 0) >= seen + 2
  })
  expect(await findings(env)).toContainEqual(
    expect.objectContaining({ id: 'incident-halting', next: ['outrider incidents show 1'] }),
  )
  await env.redis.config('SET', 'maxmemory', '0')
  await repaired(env)
  expect(await env.ids('orders')).toEqual(ids)
  const { rows } = await env.postgres.query('select repair_halt from outrider.incident')
  expect(rows).toEqual([{ repair_halt: null }])
})
