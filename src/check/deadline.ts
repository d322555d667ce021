import { ExitCode, OutriderError } from '../base/failure.js'

/** Connecting is bounded by the connections themselves; this bounds a server that accepts one and then falls silent. */
export async function withDeadline<T>(timeout: number, place: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(silent(place, timeout)), timeout)
  })
  return Promise.race([work, late]).finally(() => clearTimeout(timer))
}

const silent = (place: string, timeout: number): OutriderError =>
  new OutriderError(
    `${place} accepted a connection, but did not answer within ${timeout} ms. Is it overloaded, or frozen?`,
    {
      exitCode: ExitCode.unreachable,
    },
  )
