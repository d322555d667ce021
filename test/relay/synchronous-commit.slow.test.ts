import { describe, expect } from 'vitest'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { saved } from './redis-loss-env.js'
import { relayTest as base, type RelayEnv } from './relay-env.js'
import { putBack, REPAIR, repaired, someEvents } from './repair-env.js'

interface HeldCommit {
  id: string
  /** No standby is waited for any longer. */
  release(): Promise<void>
}

interface Held {
  env: RelayEnv
  /** Publishes an event whose commit record is written, and waits for a standby that is away. */
  publish(stream: string): Promise<HeldCommit>
}

const test = base.extend<{ held: Held }>({
  held: async ({ createEnv, skip, onTestFinished }, use) => {
    needsProcess({ skip })
    const server = await startPostgres()
    onTestFinished(() => server.remove())
    const env = await createEnv({ database: await server.createDatabase() })
    await env.postgres.query('set synchronous_commit = local')
    await use({
      env,
      async publish(stream) {
        await server.set({ synchronous_standby_names: 'nobody' })
        const client = await env.database.connect()
        const { rows } = await client.query('select outrider.uuid_v7()::text as id, pg_backend_pid() as pid')
        const [{ id, pid }] = rows
        const committed = client.query("select outrider.publish($1, 'test.happened', id => $2)", [stream, id])
        const waits = "select from pg_stat_activity where pid = $1 and wait_event = 'SyncRep'"
        await until(async () => (await env.postgres.query(waits, [pid])).rowCount)
        return {
          id,
          async release() {
            await server.set({ synchronous_standby_names: null })
            await committed
            await client.end()
          },
        }
      },
    })
  },
})

const isIn = (env: RelayEnv, stream: string, id: string) =>
  until(async () => (await env.ids(stream)).includes(id), { message: `${id} to be in ${stream}` })

describe.concurrent('an event whose commit waits for a synchronous standby', () => {
  test('while Redis loses it and the gap is repaired is put back once the commit is visible', async ({
    held: { env, publish },
  }) => {
    await env.streamingRelay(REPAIR)
    const ids = await someEvents(env)
    const commit = await publish('orders')
    await isIn(env, 'orders', commit.id)
    ids.push(await env.insert('orders'))
    await saved(env, 1, ids.at(-1))
    await env.redis.flushall()
    await putBack(env)
    expect(await env.ids('orders')).toEqual(ids)
    ids.push(await env.insert('orders'))
    await isIn(env, 'orders', ids.at(-1)!)

    await commit.release()
    await repaired(env)
    expect(await env.ids('orders')).toEqual([...ids, commit.id])
  })

  test('while the publication is repaired, and is the first of its stream, is known afterwards: FLUSHALL does not lose it', async ({
    held: { env, publish },
  }) => {
    const first = await env.streamingRelay(REPAIR)
    const ids = await someEvents(env)
    // The relay publishes, and confirms nothing.
    const locker = await env.database.connect()
    await locker.query('begin; lock table outrider.head in share mode')
    const commit = await publish('users')
    await isIn(env, 'users', commit.id)
    await first.kill()
    await locker.end()

    await env.postgres.query("alter publication outrider set (publish = 'insert')")
    const relay = await env.relay(REPAIR)
    await putBack(env)
    await relay.streaming()
    await commit.release()
    const closed = await repaired(env)
    expect(closed).toMatchObject([{ reason: 'publication_changed' }])
    await env.redis.flushall()
    await until(async () => (await repaired(env)).length === 2)
    expect([await env.ids('orders'), await env.ids('users')]).toEqual([ids, [commit.id]])
  })
})
