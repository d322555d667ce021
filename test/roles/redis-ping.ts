import { expect, onTestFinished, test } from 'vitest'
import { ping } from '../../src/cli/ping.js'
import { endOf } from '../../src/redis/streams/await-entry.js'
import type { RedisVersion } from '../../testkit/services/index.js'
import { createRelayEnv } from '../relay/relay-env.js'
import { runCommand } from '../support/command.js'
import { expectRefused, granted, startGuarded } from './acl.js'

/** What the documented ACL of somebody who pings permits, on each of these versions. */
export function pingRoles(versions: readonly RedisVersion[]): void {
  test.for(versions)(
    "a ping goes round under its line and the relay's, and may do no more: %s",
    async (version, { skip }) => {
      const guarded = await startGuarded({ skip }, version, ['relay', 'ping'])
      const { server } = guarded
      const redis = { url: guarded.url('relay'), client: server.client.bind(server), remove: async () => {} }
      const env = await createRelayEnv({ redis })
      onTestFinished(() => env.close())
      await env.streamingRelay({ OUTRIDER_DURABILITY: 'memory' })
      const writer = `writer_${env.database.name}`
      await env.postgres.query(`create role ${writer} login in role outrider_writer`)
      try {
        await guarded.forget()
        const config = { redis: { url: guarded.url('ping'), connectTimeout: 5_000 } }
        const { code } = await runCommand(ping, env.database.urlAs({ user: writer }), { config })
        expect(code).toBe(0)
        expect(await guarded.refused()).toEqual([])
        expect(await guarded.called()).toEqual(
          expect.arrayContaining(granted('ping').filter((name) => name !== 'ping')),
        )
      } finally {
        await env.postgres.query(`drop role ${writer}`)
      }
      const client = guarded.as('ping')
      expect(await endOf(client, 'ping')).not.toBe('0-0')
      await expectRefused(client, [
        ...[
          'XADD ping * a b',
          'XDEL ping 1-1',
          'DEL ping',
          'XTRIM ping MAXLEN 0',
          'XRANGE orders - +',
          'XINFO STREAM orders',
        ],
        ...[
          'GET ping',
          'SET outrider:{ping}:partitions 2',
          'HGETALL outrider:{ping}:head:x',
          'SCRIPT LOAD return',
          'KEYS *',
          'INFO',
          'FLUSHALL',
        ],
      ])
    },
  )
}
