import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { scratch } from '../../testkit/services/folder.js'
import { freePort, redisClient, until } from '../../testkit/services/index.js'
import { chosenRedis, redisHost, serverProgram } from '../../testkit/services/redis-binaries.js'

/**
 * Starts a sentinel that knows this port as the master `main`, for as long as the test runs; its own port. `downAfterMs`: how long the
 * master may be silent until a replica is promoted.
 */
export async function startSentinel(master: number, downAfterMs = 30_000): Promise<number> {
  const host = await redisHost()
  const port = await freePort()
  const folder = scratch('sentinel')
  const file = join(folder, 'sentinel.conf')
  const lines = [
    `port ${port}`,
    `bind ${host.listens}`,
    'protected-mode no',
    `sentinel monitor main 127.0.0.1 ${master} 1`,
    `sentinel down-after-milliseconds main ${downAfterMs}`,
  ]
  writeFileSync(file, `${lines.join('\n')}\n`)
  chmodSync(file, 0o666)
  const log = join(folder, 'log')
  writeFileSync(log, '')
  const sentinel = await host.launch({
    program: serverProgram(chosenRedis()),
    args: [file, '--sentinel'],
    folder,
    log,
    port,
    kind: 'redis',
  })
  onTestFinished(async () => {
    await sentinel.signal('SIGKILL')
    await sentinel.ended
  })
  await until(() => askSentinel(port, 'GET-MASTER-ADDR-BY-NAME', 'main'))
  return port
}

/** Lets a sentinel know another port as the master `main`. */
export async function nameMaster(sentinel: number, master: number): Promise<void> {
  await askSentinel(sentinel, 'REMOVE', 'main')
  await askSentinel(sentinel, 'MONITOR', 'main', '127.0.0.1', String(master), '1')
}

/** The port of the master `main`, as the sentinel has it. */
export async function masterOf(sentinel: number): Promise<number> {
  const [, port] = (await askSentinel(sentinel, 'GET-MASTER-ADDR-BY-NAME', 'main')) as [string, string]
  return Number(port)
}

/** Has a sentinel promote a replica, though the master `main` runs. It knows the replica some seconds after it was started. */
export async function failOver(sentinel: number): Promise<void> {
  await until(() => askSentinel(sentinel, 'FAILOVER', 'main'), { message: 'the sentinel to begin a failover' })
}

async function askSentinel(port: number, ...words: string[]): Promise<unknown> {
  const client = redisClient(`redis://127.0.0.1:${port}`)
  return client.call('SENTINEL', ...words).finally(() => client.disconnect())
}
