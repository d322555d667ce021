/**
 * A signal that aborts with `signal`, or after so many milliseconds. `AbortSignal.any` holds its sources weakly: without a
 * listener of its own, a timeout that nothing else refers to may be collected, and never aborts (Node 20.20).
 */
export function deadlineSignal(milliseconds: number, signal: AbortSignal): AbortSignal {
  const timeout = AbortSignal.timeout(milliseconds)
  timeout.addEventListener('abort', () => {}, { once: true })
  return AbortSignal.any([timeout, signal])
}
