import { expect, onTestFinished, test } from 'vitest'
import { SideConnection } from '../../src/relay/side-connection.js'
import { HeldError, isOfStream } from '../../src/relay/trim/held-error.js'
import { startRedis } from '../../testkit/services/index.js'

test('what uses it at once shares one connection, until an error says that the server may not be the primary any more', async () => {
  const server = await startRedis()
  onTestFinished(() => server.remove())
  let made = 0
  const connect = async () => {
    made++
    return server.client()
  }
  const connection = new SideConnection({ connect, isHarmless: isOfStream })
  onTestFinished(() => connection.close())
  await Promise.all(Array.from({ length: 8 }, () => connection.use((client) => client.ping())))
  expect(made).toBe(1)
  const admin = server.client()
  onTestFinished(() => admin.disconnect())
  expect(((await admin.client('LIST')) as string).trim().split('\n').length).toBe(2)

  await admin.set('text', 'x')
  await admin.call('ACL', 'SETUSER', 'default', '-xack')
  const fail = (work: Parameters<typeof connection.use>[0]) => connection.use(work).catch(({ message }) => message)
  expect(await fail((client) => client.xlen('text'))).toMatch(/^WRONGTYPE/)
  expect(await fail((client) => client.xack('orders', 'billing', '0-0'))).toMatch(/^NOPERM/)
  await fail(() => Promise.reject(new HeldError()))
  expect(await connection.use((client) => client.ping())).toBe('PONG')
  expect(made).toBe(1)

  await admin.replicaof('127.0.0.1', 1)
  expect(await fail((client) => client.xtrim('orders', 'MAXLEN', 1))).toMatch(/^READONLY/)
  await connection.use((client) => client.ping())
  expect(made).toBe(2)
})
