/** How long a Redis that may be gone is waited for on leaving, in milliseconds. */
export const LAST_WORDS = 2_000

/** Resolves or rejects as the promise does, or resolves after so many milliseconds. */
export async function withTimeout(promise: Promise<unknown>, milliseconds: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const over = new Promise((resolve) => {
    timer = setTimeout(resolve, milliseconds)
  })
  await Promise.race([promise, over]).finally(() => clearTimeout(timer))
}
