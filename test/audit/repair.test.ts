import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { entryOf } from '../../testkit/entry.js'
import { until } from '../../testkit/services/index.js'
import { endOf, holdRequest } from '../relay/republish-env.js'
import { type AuditEnv, createAuditEnv } from './audit-env.js'

let env: AuditEnv
let source: string

beforeAll(async () => {
  env = await createAuditEnv({ partitions: { shop: 3 } })
  source = (await currentLineage(env.postgres, env.slot))!.source
  await env.postgres.query('select outrider.publish($1, $2)', ['early', 'test.happened'])
  await env.streamingRelay()
  await until(async () => (await env.ids('early')).length === 1)
  await env.checkpoint()
})
afterAll(() => env?.close())

/** Publishes an event, and behind a checkpoint so many others: what is missing of these was not trimmed. Ids of all. */
async function publishBehind(stream: string, count: number): Promise<string[]> {
  const first = await env.publish(stream, 1)
  await env.checkpoint()
  const others = await env.publish(stream, count)
  await env.checkpoint()
  return [...first, ...others]
}

const remove = async (stream: string, id: string) => env.redis.xdel(stream, await env.entryOf(stream, id))

// One relay, which executes one request after the other.
describe('outrider audit --repair', () => {
  test('appends all that is missing, however little of it is listed, and nothing else', async () => {
    const shops = ['shop:0', 'shop:1', 'shop:2']
    const inShop = async () => (await Promise.all(shops.map((key) => env.ids(key)))).flat()
    const all: string[] = []
    for (const length of [20, 40]) {
      const { rows } = await env.postgres.query(
        "select outrider.publish('shop', 't', subject => 'subject-' || n) as id from generate_series(1, 20) as n",
      )
      all.push(...rows.map(({ id }) => id))
      await until(async () => (await inShop()).length === length)
      await env.checkpoint()
    }
    const ids = await publishBehind('orders', 5)
    for (const id of ids.slice(1, 4)) await remove('orders', id)
    const last = (await env.ids('shop:1')).at(-2) as string
    await remove('shop:1', last)
    const { code, report } = await env.audit({ repair: true, limit: '1' })
    expect([code, report.counts.missing, report.findings.length]).toEqual([0, 4, 1])
    expect(report.repair).toMatchObject({ request: '1', requested: 4, appended: 4, leftOut: 0, gone: 0, rejected: 0 })
    expect(await env.ids('orders')).toEqual([ids[0], ids[4], ids[5], ids[1], ids[2], ids[3]])
    expect((await env.ids('shop:1')).at(-1)).toBe(last)
    expect((await inShop()).sort()).toEqual(all.sort())
    expect((await env.audit()).code).toBe(0)
  })

  test('leaves out what has come back by the time that the relay begins', async () => {
    const ids = await publishBehind('users', 2)
    const [, fields] = (await env.redis.xrange('users', '-', '+'))[1]!
    await remove('users', ids[1]!)
    await remove('users', ids[2]!)
    const held = await holdRequest(env, 'open')
    const { code, report } = await env.audit({ stream: 'users', repair: true, 'no-wait': true })
    expect([code, report.repair]).toMatchObject([4, { requested: 2, appended: null }])
    await held.reached()
    await env.redis.xadd('users', '*', ...fields)
    await held.release()
    expect(await endOf(env, report.repair!.request!)).toMatchObject({ state: 'done', found: '1', appended: '1' })
    expect(await env.ids('users')).toEqual([ids[0], ids[1], ids[2]])
  })

  test('says what it did, and ends with findings for what it cannot put right', async () => {
    expect(await env.auditText({ stream: 'orders', repair: true })).toMatch(
      /\n\nNothing is missing, so that nothing is appended\.$/,
    )
    const [, lost] = await publishBehind('mixed', 2)
    await remove('mixed', lost!)
    await env.redis.xadd('mixed', '*', ...entryOf({}, { source }))
    const { code, report } = await env.audit({ stream: 'mixed', repair: true })
    expect([code, report.counts, report.repair]).toMatchObject([4, { missing: 1, extra: 1 }, { appended: 1 }])
  })
})
