import { randomInt } from 'node:crypto'
import { createServer } from 'node:net'

/**
 * A port free on 127.0.0.1, below the ranges that systems take for outgoing connections (32768 on Linux, 49152
 * elsewhere): a server that is restarted must not find its port lent to somebody's client.
 */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = randomInt(15_000, 32_000)
    if (await isFree(port)) return port
  }
  throw new Error('Expected a free port on 127.0.0.1 between 15000 and 32000, found none in 100 tries')
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(false))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)))
  })
}
