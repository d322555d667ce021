/** Opens once, for all who wait before it. */
export class Gate {
  #open = () => {}
  readonly #opened = new Promise<void>((resolve) => {
    this.#open = resolve
  })
  isOpen = false

  open(): void {
    this.isOpen = true
    this.#open()
  }

  /** Rejects when the signal is aborted: a test that fails must not wait for handlers that wait here. */
  wait(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true })
      void this.#opened.then(resolve)
    })
  }
}
