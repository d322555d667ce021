/** Calls `work` at this interval, in milliseconds, until the signal aborts. */
export function every(milliseconds: number, work: () => void, signal: AbortSignal): void {
  if (signal.aborted) return
  const timer = setInterval(work, milliseconds)
  signal.addEventListener('abort', () => clearInterval(timer), { once: true })
}
