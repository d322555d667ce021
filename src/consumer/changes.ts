/** Those who wait for the next change of something. It holds none whose wait is over. */
export class Changes {
  #waiting = new Set<() => void>()

  /** Resolves at the next change, or after so many milliseconds. */
  next(timeout?: number): Promise<void> {
    return new Promise((resolve) => {
      let timer: NodeJS.Timeout | undefined
      const wake = () => {
        clearTimeout(timer)
        this.#waiting.delete(wake)
        resolve()
      }
      if (timeout !== undefined) timer = setTimeout(wake, timeout)
      this.#waiting.add(wake)
    })
  }

  tell(): void {
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const wake of waiting) wake()
  }
}
