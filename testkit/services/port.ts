import { randomInt } from 'node:crypto'
import { createServer } from 'node:net'

/** Below the ports that systems give to outgoing connections: a server that is restarted must find its port free. */
const FIRST = 15_000
const COUNT = 17_000
/** So many processes of one test run choose from ports of their own. */
const SHARES = 20
const SHARE = COUNT / SHARES

const first = FIRST + (Number(process.env.VITEST_POOL_ID ?? 0) % SHARES) * SHARE
let next = randomInt(SHARE)

/**
 * A port of 127.0.0.1 that is free, and that no other process of the same test run is given meanwhile: a server takes some time until
 * it listens. One after the other, so that the port of a server that has just ended is not the next one's.
 */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < SHARE; attempt++) {
    const port = first + next
    next = (next + 1) % SHARE
    if (await isFree(port)) return port
  }
  throw new Error(`Expected a free port on 127.0.0.1 between ${first} and ${first + SHARE - 1}, found none.`)
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(false))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)))
  })
}
