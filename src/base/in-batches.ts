/** The items in lists of at most so many, in order. */
export function* batchesOf<T>(items: Iterable<T>, size: number): Generator<T[]> {
  let batch: T[] = []
  for (const item of items) {
    batch.push(item)
    if (batch.length < size) continue
    yield batch
    batch = []
  }
  if (batch.length > 0) yield batch
}

/** Calls `work` for every item, for so many of them at a time. */
export async function inBatches<T>(
  items: Iterable<T>,
  size: number,
  work: (item: T) => Promise<unknown>,
): Promise<void> {
  for (const batch of batchesOf(items, size)) await Promise.all(batch.map(work))
}
