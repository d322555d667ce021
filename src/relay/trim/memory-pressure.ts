import type { Logger } from '../../telemetry/log.js'
import { isShortOfMemory, type TrimFacts, type TrimPlan } from './trim-plan.js'

/** Says when trimming for memory begins and ends: for all streams, once. In a cluster some servers may be short of it and others not. */
export class MemoryPressure {
  readonly #log: Logger
  /** Streams that were trimmed for memory, and whose server is still short of it. */
  readonly #streams = new Set<string>()

  constructor(log: Logger) {
    this.#log = log
  }

  /** What a look at a stream has found. */
  see(key: string, { memory, policy }: Pick<TrimFacts, 'memory' | 'policy'>, { isForMemory }: TrimPlan): void {
    const facts = { usedBytes: memory?.used, maxmemoryBytes: memory?.max, trimAtMemory: policy.trimAtMemory }
    if (isForMemory) {
      if (this.#streams.size === 0) this.#log.warn({ stream: key, ...facts }, 'trimming for memory begins')
      this.#streams.add(key)
    } else if (!isShortOfMemory({ memory, policy })) this.#leave(key, facts)
  }

  /** The stream is gone. */
  remove(key: string): void {
    this.#leave(key, {})
  }

  #leave(key: string, facts: object): void {
    if (this.#streams.delete(key) && this.#streams.size === 0) this.#log.info(facts, 'trimming for memory ends')
  }
}
