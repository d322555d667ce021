import { hostname } from 'node:os'
import { z } from 'zod'

/** What a relay says of itself over HTTP. */
export interface RelayAnswer {
  url: string
  role: string
  state: string
  reason: string | undefined
  message: string | undefined
  /** The level that it confirms at. */
  durability: string | undefined
}

const READY = z.object({
  role: z.string().max(100),
  state: z.string().max(100),
  reason: z.string().max(100).optional(),
  message: z.string().optional(),
})

/** Only the same host or network reaches it, so nothing depends on the answer. */
const ANSWER_MS = 800

/**
 * Asks the relay of this host name, where it listens on the port of this configuration. Undefined: it cannot be reached
 * from here, as from outside its cluster.
 */
export async function askRelay(host: string | undefined, port: number): Promise<RelayAnswer | undefined> {
  if (port === 0) return undefined
  const own = host === undefined || host === hostname()
  const url = `http://${own ? '127.0.0.1' : host}:${port}`
  try {
    const [ready, metrics] = await Promise.all([textOf(`${url}/readyz`), textOf(`${url}/metrics`)])
    const { role, state, reason, message } = READY.parse(JSON.parse(ready))
    const [, durability] = /^outrider_durability_level\{level="([^"]+)"\} 1$/m.exec(metrics) ?? []
    return { url, role, state, reason, message, durability }
  } catch {
    return undefined
  }
}

const textOf = async (url: string): Promise<string> =>
  (await fetch(url, { signal: AbortSignal.timeout(ANSWER_MS), redirect: 'error' })).text()
