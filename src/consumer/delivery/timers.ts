/** The longest that setTimeout takes. */
const LONGEST = 2 ** 31 - 1

/** One timer a thing. */
export class Timers<Thing = unknown> {
  readonly #timers = new Map<Thing, NodeJS.Timeout>()
  #stopped = false

  /** Takes the place of the thing's timer before; after `stop` it does nothing. */
  set(thing: Thing, milliseconds: number, then: () => void): void {
    this.clear(thing)
    if (this.#stopped) return
    const timer = setTimeout(
      () => {
        this.#timers.delete(thing)
        then()
      },
      Math.min(milliseconds, LONGEST),
    )
    this.#timers.set(thing, timer)
  }

  clear(thing: Thing): void {
    const timer = this.#timers.get(thing)
    if (!timer) return
    clearTimeout(timer)
    this.#timers.delete(thing)
  }

  stop(): void {
    this.#stopped = true
    for (const timer of this.#timers.values()) clearTimeout(timer)
    this.#timers.clear()
  }
}
