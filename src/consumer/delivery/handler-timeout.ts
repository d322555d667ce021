import type { LazyAbort } from '../lazy-abort.js'

/** A call of a handler that took longer than its `timeout`: an attempt. */
export class HandlerTimeoutError extends Error {
  override name = 'HandlerTimeoutError'

  constructor(milliseconds: number) {
    super(
      `Expected the handler to end within ${milliseconds} ms (timeout), found that it still runs. Its transaction is rolled back. ` +
        'Heed the signal that it gets, or raise timeout.',
    )
  }
}

/** Runs a handler; after so many milliseconds its signal is aborted and it is waited for no longer. */
export function withHandlerTimeout<T>(
  milliseconds: number | undefined,
  stop: LazyAbort,
  run: () => Promise<T>,
): Promise<T> {
  return milliseconds === undefined ? run() : raced(milliseconds, stop, run)
}

async function raced<T>(milliseconds: number, stop: LazyAbort, run: () => Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const over = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const error = new HandlerTimeoutError(milliseconds)
      // First, so that it counts and not what the handler makes of the signal.
      reject(error)
      stop.abort(error)
    }, milliseconds)
  })
  try {
    return await Promise.race([run(), over])
  } finally {
    clearTimeout(timer)
  }
}
