import { setTimeout as pause } from 'node:timers/promises'
import type { RedisClient } from '../client/connect.js'

const PAGE = 100
const PAUSE_MS = 20

/**
 * The id behind which the next entry will be; a stream that is not there yet begins at 0. Ask before the event is committed
 * whose entry `awaitEvent` looks for.
 */
export async function endOf(client: RedisClient, key: string): Promise<string> {
  try {
    const info = (await client.xinfo('STREAM', key)) as unknown[]
    return String(info[info.indexOf('last-generated-id') + 1])
  } catch (error) {
    if (/no such key/i.test((error as Error).message)) return '0-0'
    throw error
  }
}

/** The entry of the event with this id behind `from`, once it is there; undefined when `wait`, in milliseconds, is over. */
export async function awaitEvent(
  client: RedisClient,
  key: string,
  id: string,
  from: string,
  wait: number,
): Promise<string | undefined> {
  const deadline = performance.now() + wait
  let last = from
  for (;;) {
    const page = await client.xrange(key, `(${last}`, '+', 'COUNT', PAGE)
    const found = page.find(([, fields]) => idOf(fields) === id)
    if (found) return found[0]
    last = page.at(-1)?.[0] ?? last
    if (performance.now() >= deadline) return undefined
    if (page.length < PAGE) await pause(PAUSE_MS)
  }
}

/** The event id of an entry. */
export function idOf(fields: string[]): string | undefined {
  for (let i = 0; i + 1 < fields.length; i += 2) if (fields[i] === 'id') return fields[i + 1]
  return undefined
}
