/** What a worker remembers in Redis of an entry that has not come to its end: see src/consumer/delivery/delivery.ts. */
export interface Attempts {
  failed: number
  /** When the first of them failed, in milliseconds since 1970. */
  failingSince: number | undefined
  /** When the next is due. */
  due: number | undefined
  /** Since when a worker for a newer version is waited for. */
  versionSince: number | undefined
}

/** What is no such text is taken for none: an older or newer version may have written it. */
export function attemptsOf(text: string): Attempts {
  let found: unknown
  try {
    found = JSON.parse(text)
  } catch {
    found = undefined
  }
  const number = (name: string): number | undefined => {
    const value: unknown = typeof found === 'object' && found !== null ? Reflect.get(found, name) : undefined
    return typeof value === 'number' ? value : undefined
  }
  return {
    failed: number('attempts') ?? 0,
    failingSince: number('failingSince'),
    due: number('due') || undefined,
    versionSince: number('since'),
  }
}

/** A field of an entry, as Redis replies it. */
export function fieldIn(flat: readonly string[], name: string): string | undefined {
  for (let n = 0; n + 1 < flat.length; n += 2) if (flat[n] === name) return flat[n + 1]
  return undefined
}
