import { setTimeout as wait } from 'node:timers/promises'

/** Exponential backoff with full jitter below a floor of half: milliseconds before attempt `attempt`, counted from 1. */
export function backoff(attempt: number, base: number, cap: number, random: () => number = Math.random): number {
  const ceiling = Math.min(cap, base * 2 ** Math.min(attempt - 1, 30))
  return ceiling / 2 + (ceiling / 2) * random()
}

/** Waits so many milliseconds, or until the signal. Never rejects. */
export async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  await wait(milliseconds, undefined, { signal }).catch(() => {})
}
