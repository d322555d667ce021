import { expect, test } from 'vitest'
import type { RedisClient } from '../../redis/connect.js'
import { AliveKey } from './alive-key.js'

function aliveKey(ping: () => Promise<unknown>) {
  const called: string[] = []
  const client = {
    ping: () => {
      called.push('ping')
      return ping()
    },
    set: async () => {
      called.push('set')
      return 'OK'
    },
  } as unknown as RedisClient
  const key = new AliveKey({
    ...{ lineage: 'l', session: 's', signal: new AbortController().signal, refused: () => {} },
    ...{ renewEveryMs: 10, expiresAfterMs: 20, listenMs: 50 },
  })
  return { called, listen: () => key.othersAreSilent(client) }
}

test('a connection on which it listens is never silent for long: Redis may have a `timeout`', async () => {
  const { called, listen } = aliveKey(async () => 'PONG')
  expect(await listen()).toBe(true)
  expect(called.filter((name) => name === 'ping').length).toBeGreaterThanOrEqual(2)
  expect(called.at(-1)).toBe('set')
})

test('listening ends with its connection', async () => {
  const { called, listen } = aliveKey(() => Promise.reject(new Error('Connection is closed.')))
  await expect(listen()).rejects.toThrow('Connection is closed.')
  expect(called).toEqual(['ping'])
})

test('a PING that is not permitted was answered', async () => {
  const { listen } = aliveKey(() => Promise.reject(Object.assign(new Error('NOPERM'), { name: 'ReplyError' })))
  expect(await listen()).toBe(true)
})
