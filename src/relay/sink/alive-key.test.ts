import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { RedisClient } from '../../redis/client/connect.js'
import { AliveKey, newSession, renewsAliveKey } from './alive-key.js'

// The machine may be busy for longer than they listen.
beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

/** A key of one Redis, and relays that renew it or listen. */
class Key {
  value: string | null = null
  sent = 0

  readonly client = {
    set: async (_key: string, session: string) => {
      this.sent += 1
      const before = this.value
      this.value = session
      return before
    },
  } as unknown as RedisClient

  relay(session: string, client = this.client) {
    const ended = new AbortController()
    const alive = new AliveKey({
      ...{ lineage: 'l', session, signal: ended.signal, refused: () => {}, owns: async (each) => each === 'own' },
      ...{ renewEveryMs: 10, expiresAfterMs: 30, listenMs: 50 },
    })
    return { alive, listen: () => alive.othersAreSilent(client), end: () => ended.abort() }
  }
}

/** What they hear in the time that they listen. */
async function heard<T>(listening: Promise<T>): Promise<T> {
  await vi.advanceTimersByTimeAsync(100)
  return listening
}

test('where only a relay that is gone has renewed the key, the others are silent', async () => {
  const key = new Key()
  key.value = 'gone'
  expect(await heard(key.relay('s').listen())).toBe(true)
  expect(key.value).toBe('s')
})

test('a relay that renews the key is heard', async () => {
  const key = new Key()
  const other = key.relay('other')
  other.alive.start(() => key.client)
  expect(await heard(key.relay('s').listen())).toBe(false)
  other.end()
})

test('of two that listen at the same time each hears the other', async () => {
  const key = new Key()
  const first = key.relay('first').listen()
  await vi.advanceTimersByTimeAsync(15)
  expect(await heard(Promise.all([first, key.relay('second').listen()]))).toEqual([false, false])
})

test('an earlier session of the same database is not another one', async () => {
  const key = new Key()
  const own = key.relay('own')
  own.alive.start(() => key.client)
  expect(await heard(key.relay('s').listen())).toBe(true)
  own.end()
})

test('a connection on which it listens is never silent for long: Redis may have a `timeout`', async () => {
  const key = new Key()
  await heard(key.relay('s').listen())
  expect(key.sent).toBeGreaterThanOrEqual(3)
})

test('listening ends with its connection, and with a refusal: neither proves silence', async () => {
  const key = new Key()
  const client = { set: () => Promise.reject(new Error('Connection is closed.')) } as unknown as RedisClient
  await expect(key.relay('s', client).listen()).rejects.toThrow('Connection is closed.')
})

test('a session of a version that did not renew the key cannot be heard', () => {
  expect(renewsAliveKey(newSession())).toBe(true)
  expect(renewsAliveKey(crypto.randomUUID())).toBe(false)
})
