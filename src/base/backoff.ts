/** Exponential backoff with full jitter below a floor of half: milliseconds before attempt `attempt`, counted from 1. */
export function backoff(attempt: number, base: number, cap: number, random: () => number = Math.random): number {
  const ceiling = Math.min(cap, base * 2 ** Math.min(attempt - 1, 30))
  return ceiling / 2 + (ceiling / 2) * random()
}

/** The pauses that a signal ends: one listener for all of them, or many pauses at once would be taken for a leak of listeners. */
interface Pauses {
  ends: Set<() => void>
  onAbort(): void
}

/** Each while a pause lasts: a signal of AbortSignal.any is kept in memory as long as it has a listener. */
const pausesOf = new WeakMap<AbortSignal, Pauses>()

/** Waits so many milliseconds, or until the signal. Never rejects. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  return new Promise((resolve) => {
    const pauses = pausesOf.get(signal) ?? listenTo(signal)
    const end = () => {
      clearTimeout(timer)
      pauses.ends.delete(end)
      if (pauses.ends.size === 0) {
        signal.removeEventListener('abort', pauses.onAbort)
        pausesOf.delete(signal)
      }
      resolve()
    }
    const timer = setTimeout(end, milliseconds)
    pauses.ends.add(end)
  })
}

function listenTo(signal: AbortSignal): Pauses {
  const ends = new Set<() => void>()
  const onAbort = () => {
    for (const end of ends) end()
  }
  const pauses = { ends, onAbort }
  pausesOf.set(signal, pauses)
  signal.addEventListener('abort', onAbort)
  return pauses
}
