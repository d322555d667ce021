import type { ConsumerEnv } from './consumer-env.js'
import { GROUP } from './happened.js'

/** How many entries of these streams the group has still to acknowledge, and how many of them it was given. */
export async function backlog(
  { redis }: ConsumerEnv,
  keys: readonly string[],
): Promise<{ left: number; pending: number }> {
  const found = { left: 0, pending: 0 }
  for (const key of keys) {
    const groups = (await redis.xinfo('GROUPS', key)) as unknown[][]
    const info = groups.find((info) => info[info.indexOf('name') + 1] === GROUP) as unknown[]
    const at = (name: string) => Number(info[info.indexOf(name) + 1])
    found.left += at('pending') + at('lag')
    found.pending += at('pending')
  }
  return found
}
