import { describe, expect } from 'vitest'
import { isRequested } from '../../src/event/position.js'
import { until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'
import { REPAIR, repaired } from './repair-env.js'
import {
  endOf,
  fieldsOf,
  hasLength,
  holdRequest,
  insertMany,
  killedAt,
  leftovers,
  publishedAndRequested,
  requestOf,
  runRepublish,
  writer,
} from './republish-env.js'

describe.concurrent('outrider republish', () => {
  test('appends events again under their own ids, behind what is there, and says so', async ({ env }) => {
    await env.streamingRelay()
    const ids = [await env.insert('orders', { n: 1 }), await env.insert('orders', { n: 2 }), await env.insert('orders')]
    await hasLength(env.redis, 'orders', 3)
    const { code, text } = await runRepublish(env, { ids: [`${ids[1]},${ids[0]}`] })
    expect([code, JSON.parse(text)]).toMatchObject([0, { state: 'done', found: 2, appended: 2, gone: 0, rejected: 0 }])
    expect(await env.ids('orders')).toEqual([...ids, ids[0], ids[1]])
    const entries = (await env.redis.xrange('orders', '-', '+')).map(([, fields]) => fieldsOf(fields))
    expect(entries.map(({ sequence }) => isRequested(sequence as string))).toEqual([false, false, false, true, true])
    const { sequence: _one, ...original } = entries[0]!
    const { sequence: _other, ...copy } = entries[3]!
    expect(copy).toEqual(original)
    expect(await leftovers(env)).toBe(0)
    // What comes next is published as ever.
    const next = await env.insert('orders')
    await hasLength(env.redis, 'orders', 6)
    expect((await env.ids('orders')).at(-1)).toBe(next)
  })

  test('to a stream that the Redis user may not write to is refused, and publishing continues', async ({ env }) => {
    const acl = `reset on >secret resetchannels +@all ~orders ~outrider:{orders}:* ~outrider:{*}:alive`
    await env.redis.call('ACL', 'SETUSER', 'relay', ...acl.split(' '))
    const url = Object.assign(new URL(env.server.url), { username: 'relay', password: 'secret' })
    await env.streamingRelay({ OUTRIDER_REDIS_URL: String(url) })
    const ids = [await env.insert('orders'), await env.insert('orders')]
    await hasLength(env.redis, 'orders', 2)
    await expect(runRepublish(env, { stream: 'orders', to: 'replay' })).rejects.toThrow(
      /^Request 1 was refused: The relay's Redis user may not write to the stream replay \(redis_noperm\)/,
    )
    ids.push(await env.insert('orders'))
    await hasLength(env.redis, 'orders', 3)
    expect(await env.ids('orders')).toEqual(ids)
  })

  killedAt([['saved', 'done']])

  test('says which rows left the table while no relay executed it', async ({ env }) => {
    const relay = await env.streamingRelay()
    const ids = await insertMany(env, 20)
    await hasLength(env.redis, 'orders', ids.length)
    const held = await holdRequest(env, 'open')
    const request = await requestOf(env, { stream: 'orders' })
    await held.reached()
    await relay.kill()
    await held.breakOff()
    await held.release()
    await env.postgres.query('delete from outrider.outbox where id = any ($1)', [ids.slice(0, 5)])
    await env.relay()
    expect(await endOf(env, request)).toMatchObject({ state: 'done', found: '20', appended: '15', gone: '5' })
    expect(await env.ids('orders')).toEqual([...ids, ...ids.slice(5)])
  })

  test('into a stream that Redis loses before the end appends all of it again, and none of it twice', async ({
    env,
  }) => {
    await env.streamingRelay(REPAIR)
    const ids = await insertMany(env, 1_500)
    await hasLength(env.redis, 'orders', ids.length)
    const held = await holdRequest(env, 'done')
    const request = await requestOf(env, { stream: 'orders', to: 'replay' })
    await held.reached()
    await env.redis.flushall()
    await repaired(env)
    await held.release()
    expect(await endOf(env, request)).toMatchObject({ state: 'done' })
    expect([await env.ids('replay'), await env.ids('orders')]).toEqual([ids, ids])
  })

  test('continues on another relay when relays are killed and frozen under load: what is published meanwhile stays in order', async ({
    env,
  }) => {
    await env.database.query(`alter role relay_${env.database.name} set wal_sender_timeout = '2s'`)
    const first = await env.streamingRelay()
    const ids = await insertMany(env, 12_000)
    await hasLength(env.redis, 'orders', ids.length)
    const second = await env.relay()
    await second.is({ role: 'standby' })
    const request = await requestOf(env, { stream: 'orders' })
    const writing = new AbortController()
    const later = writer(env, writing.signal)
    await hasLength(env.redis, 'orders', ids.length + 3_000)
    first.signal('SIGSTOP')
    await second.streaming()
    await second.kill()
    first.signal('SIGCONT')
    const { appended, found, state } = await endOf(env, request)
    writing.abort()
    const more = await later
    const wanted = [...ids, ...more].slice(0, Number(found))
    expect([state, appended, wanted.length >= ids.length]).toEqual(['done', found, true])
    await until(async () => (await publishedAndRequested(env)).published.length >= ids.length + more.length)
    const { published, requested } = await publishedAndRequested(env)
    expect(published).toEqual([...ids, ...more])
    expect(requested).toEqual(wanted)
    expect((await env.postgres.query('select from outrider.incident')).rowCount).toBe(0)
  })

  test('is not executed by a role that lacks the rights, which publishes as before and says what it lacks', async ({
    env,
  }) => {
    await env.postgres.query('revoke all on outrider.request from outrider_relay')
    const relay = await env.streamingRelay()
    await relay.logged(({ msg }) => /^requests of .* are not executed: the role lacks rights/.test(msg))
    const id = await env.insert('orders')
    await hasLength(env.redis, 'orders', 1)
    expect(await env.ids('orders')).toEqual([id])
  })
})
