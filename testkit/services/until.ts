import { setTimeout as pause } from 'node:timers/promises'

export interface UntilOptions {
  /** Milliseconds until giving up; see `patience`. A test that passes never waits so long. */
  timeout?: number | undefined
  /** What was awaited, as the error will say it. A function is called only then, so it can tell the last state. */
  message?: string | (() => string)
}

/** For a machine that does much else; slow tests, which move much, are given more by vitest.config.ts. */
const patience = () => Number(process.env.OUTRIDER_TEST_PATIENCE_MS ?? 60_000)

type Truthy<T> = Exclude<T, undefined | null | false | 0 | ''>

/**
 * Waits until `condition` returns something truthy, and returns that. A condition that throws counts as "not yet";
 * its last error becomes the cause when the time is over, also when the condition itself never answers.
 */
export async function until<T>(condition: () => T | Promise<T>, options: UntilOptions = {}): Promise<Truthy<T>> {
  const { timeout = patience(), message } = options
  const began = performance.now()
  const deadline = began + timeout
  const late = Symbol('late')
  let cause: unknown
  for (;;) {
    const stop = new AbortController()
    try {
      const left = Math.max(1, deadline - performance.now())
      const value = await Promise.race([condition(), pause(left, late, { signal: stop.signal })])
      if (value && value !== late) return value as Truthy<T>
      if (value !== late) cause = undefined
    } catch (error) {
      cause = error
    } finally {
      stop.abort()
    }
    if (performance.now() >= deadline) {
      const what = (typeof message === 'function' ? message() : message) ?? condition.toString()
      throw new Error(`Expected within ${timeout} ms: ${what}`, { cause })
    }
    // The longer it takes, the less a moment more matters, and asking costs the servers what others wait for.
    await pause(Math.min(100, Math.max(10, (performance.now() - began) / 20)))
  }
}
