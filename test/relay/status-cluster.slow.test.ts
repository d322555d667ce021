import { expect, onTestFinished } from 'vitest'
import { status } from '../../src/cli/status.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { entryOf } from '../../testkit/entry.js'
import { needsProcess, startRedisCluster, until } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { relayTest as test } from './relay-env.js'

/** Each on a master of its own. */
const STREAMS = ['orders', 'users', 'payments:0']

test.for([
  ['others continue', 'no', ['payments', 'users']],
  ['others refuse every key', 'yes', []],
] as const)(
  'a master of a cluster is away and no replica is promoted, and the %s: status names it, and shows what it can',
  async ([, coverage, shown], { env, skip }) => {
    needsProcess({ skip }, ['redis'])
    const cluster = await startRedisCluster({ settings: { 'cluster-require-full-coverage': coverage } })
    onTestFinished(() => cluster.remove())
    const { lineage } = (await currentLineage(env.postgres, env.slot))!
    for (const key of STREAMS) {
      const entry = await cluster.client.xadd(key, '*', ...entryOf({ n: 1 }, { id: key }))
      await env.postgres.query(
        `with s as (
         insert into outrider.session (session, lineage, hostname, pid, version, timeline)
         values (gen_random_uuid(), $1, 'web-1', 4711, '0.1.0', 1) returning session
       )
       insert into outrider.head (lineage, stream_key, position, event_id, entry_id, session)
       select $1, $2, '', $2, $3, session from s`,
        [lineage, key, entry],
      )
    }
    const look = async (json: boolean) =>
      runCommand(status, env.variables.OUTRIDER_POSTGRES_URL as string, {
        config: { slot: env.slot, redis: { url: cluster.url, connectTimeout: 5_000 } },
        json,
      })
    const dead = cluster.masterOf('orders')
    await cluster.noticesFailures()
    await dead.kill()
    // Once the others have noticed.
    const other = cluster.masterOf('users')
    await until(async () =>
      /cluster_state:fail|cluster_slots_fail:[1-9]/.test(String(await other.command('CLUSTER', 'INFO'))),
    )
    // A client asks any node first: one that is away, now and then.
    for (let n = 0; n < 5; n++) {
      const { code, text } = await look(true)
      const { findings, streams, redis } = JSON.parse(text)
      expect(code).toBe(4)
      expect(redis.nodes).toHaveLength(2)
      expect(redis.away).toEqual([{ name: `127.0.0.1:${dead.port}`, error: expect.any(String) }])
      // Its streams were not asked for: each would wait until the call times out.
      expect(redis.refused).toContainEqual({ key: 'orders', error: expect.stringMatching(/^no answer from /) })
      expect(findings.map(({ id }: { id: string }) => id)).toEqual([
        'relay-missing',
        'redis-node-away',
        'redis-refused',
      ])
      expect(streams.map(({ stream }: { stream: string }) => stream).sort()).toEqual(shown)
    }
    expect((await look(false)).text).toMatch(new RegExp(`no answer from 127\\.0\\.0\\.1:${dead.port}`))
  },
)
