export interface BackpressureOptions {
  stream: { pause(): void; resume(): void }
  /** Bytes in flight above which nothing more is read; reading continues at half of them. */
  inflightBytes: number
}

/** Keeps what is in flight within its budget: Postgres holds what is not read. */
export class Backpressure {
  readonly #options: BackpressureOptions
  #isPaused = false
  #isStopped = false

  constructor(options: BackpressureOptions) {
    this.#options = options
  }

  /** Rows were received, and `bytes` are in flight now. */
  received(bytes: number): void {
    if (bytes > this.#options.inflightBytes) this.#pause()
  }

  /** Rows were appended, and `bytes` are in flight now. */
  appended(bytes: number): void {
    if (!this.#isPaused || this.#isStopped || bytes > this.#options.inflightBytes / 2) return
    this.#isPaused = false
    this.#options.stream.resume()
  }

  /** Nothing more is read. */
  stop(): void {
    this.#isStopped = true
    this.#pause()
  }

  #pause(): void {
    if (this.#isPaused) return
    this.#isPaused = true
    this.#options.stream.pause()
  }
}
