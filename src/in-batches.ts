/** Calls `work` for every item, for so many of them at a time. */
export async function inBatches<T>(
  items: Iterable<T>,
  size: number,
  work: (item: T) => Promise<unknown>,
): Promise<void> {
  let batch: Promise<unknown>[] = []
  for (const item of items) {
    batch.push(work(item))
    if (batch.length < size) continue
    await Promise.all(batch)
    batch = []
  }
  await Promise.all(batch)
}
