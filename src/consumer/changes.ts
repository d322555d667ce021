interface Wait {
  isOver(): boolean
  end(): void
}

/** Those who wait for a change of something. It holds none whose wait is over. */
export class Changes {
  readonly #waits = new Set<Wait>()

  /** Resolves at the next change, or after so many milliseconds. */
  next(timeout?: number): Promise<void> {
    return this.until(() => true, timeout)
  }

  /** Resolves at the first change after which this is true, or after so many milliseconds. Between them nothing is allocated. */
  until(isOver: () => boolean, timeout?: number): Promise<void> {
    return new Promise((resolve) => {
      let timer: NodeJS.Timeout | undefined
      const end = () => {
        clearTimeout(timer)
        this.#waits.delete(wait)
        resolve()
      }
      const wait = { isOver, end }
      if (timeout !== undefined) timer = setTimeout(end, timeout)
      this.#waits.add(wait)
    })
  }

  tell(): void {
    for (const wait of this.#waits) if (wait.isOver()) wait.end()
  }
}
