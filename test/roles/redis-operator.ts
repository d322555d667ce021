import { describe, expect, test } from 'vitest'
import { deadLetters } from '../../src/cli/dead-letters.js'
import { deadKey } from '../../src/event/names.js'
import { entryOf } from '../../testkit/entry.js'
import type { RedisVersion } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { expectRefused, expectRefusedInScript, type Guarded, granted, startGuarded } from './acl.js'

const DEATH = ['deadreason', 'attempts', 'deaderror', 'no', 'deadattempts', '1', 'deadtime', 'now', 'deadentry', '1-1']

const run = ({ url }: Guarded, ...args: string[]) => {
  const [action, ...rest] = args
  const flags = Object.fromEntries(rest.filter((arg) => arg.startsWith('--')).map((arg) => arg.slice(2).split('=')))
  const ids = rest.filter((arg) => !arg.startsWith('--'))
  const config = { redis: { url: url('operator'), connectTimeout: 5_000 } }
  const words = action === undefined ? ids : [action, ...ids]
  return runCommand(deadLetters, 'postgres://127.0.0.1:1/none', {
    args: words,
    flags,
    config,
    json: true,
    answer: true,
  })
}

const bury = ({ admin }: Guarded, key: string, group: string, id: string) =>
  admin.xadd(deadKey(key, group), '*', ...entryOf({}, { id }), ...DEATH)

/** Declares the tests on these versions. */
export const operatorRole = (versions: readonly RedisVersion[]): void =>
  describe.each(versions)('an operator on %s', (version) => {
    test('does all the work under the line, and uses every command of it', async (context) => {
      const guarded = await startGuarded(context, version, ['operator'])
      for (const [n, key] of ['orders', 'orders:0', 'orders:1'].entries()) {
        for (const group of ['billing', 'mail']) await bury(guarded, key, group, `${group}-${n}`)
      }
      await guarded.forget()
      expect(JSON.parse((await run(guarded, 'list')).text)).toMatchObject({ count: 6 })
      expect((await run(guarded, 'show', 'mail-1')).text).toContain('"id":"mail-1"')
      expect(JSON.parse((await run(guarded, 'replay', '--group=billing')).text)).toMatchObject({ replayed: 3 })
      expect(JSON.parse((await run(guarded, 'discard', '--group=mail')).text)).toMatchObject({ discarded: 3 })
      expect(await guarded.called()).toEqual(granted('operator'))
      expect(await guarded.refused()).toEqual([])
      expect(await guarded.admin.xlen('orders:1')).toBe(1)
    })

    test('next to dead letters of streams that the line does not name, names the stream', async (context) => {
      const guarded = await startGuarded(context, version, ['operator'])
      await bury(guarded, 'orders', 'billing', 'mine')
      await bury(guarded, 'payments', 'billing', 'theirs')
      await expect(run(guarded, 'list')).rejects.toThrow(/NOPERM/)
      expect(JSON.parse((await run(guarded, 'list', '--stream=orders')).text)).toMatchObject({ count: 1 })
    })

    test('may do no more than that', async (context) => {
      const guarded = await startGuarded(context, version, ['operator'])
      await guarded.admin.xadd('orders', '1-1', 'a', 'b')
      const client = guarded.as('operator')
      await expectRefused(client, FORBIDDEN)
      await expectRefusedInScript(client, 'orders', FORBIDDEN)
      expect(await guarded.admin.xlen('orders')).toBe(1)
    })
  })

const FORBIDDEN = [
  // Streams, but to append to them.
  'XRANGE orders - +',
  'XREVRANGE orders + -',
  'XLEN orders',
  'XREAD STREAMS orders 0',
  'XINFO STREAM orders',
  'XDEL orders 1-1',
  'XTRIM orders MAXLEN 0',
  'DEL orders',
  'UNLINK orders',
  'RENAME orders other',
  'XADD payments * a b',
  'XRANGE outrider:{payments}:dead:billing - +',
  // Groups.
  'XGROUP CREATE orders mail 0',
  'XGROUP DESTROY orders billing',
  'XREADGROUP GROUP billing me STREAMS orders >',
  'XACK orders billing 1-1',
  'HDEL outrider:{orders}:retries:billing 1-1',
  // Letters are removed one by one, never made.
  'XADD outrider:{orders}:dead:billing * a b',
  'DEL outrider:{orders}:dead:billing',
  // The relay's keys.
  'HGETALL outrider:{orders}:head:x',
  'DEL outrider:{orders}:head:x',
  'SET outrider:{orders}:partitions 9',
  // Other keys, and the server.
  'GET session:1',
  'KEYS *',
  'FLUSHALL',
  'INFO',
  'CONFIG GET requirepass',
  'ACL LIST',
  'ACL SETUSER operator +@all',
  'CLIENT LIST',
  'SCRIPT FLUSH',
  'EVAL return 0',
  'MONITOR',
  'SHUTDOWN NOSAVE',
]
