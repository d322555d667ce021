import { timeOf } from '../../event/entry-id.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { countDead, type Measures, type TrimSurvey } from '../../redis/streams/trim.js'
import type { Metrics } from '../../telemetry/metrics.js'
import type { DeadLetterGauges } from '../../telemetry/stream-metrics.js'
import { isOfStream } from './held-error.js'
import type { TrimPlan } from './trim-plan.js'

/** After a refusal, in milliseconds: each would be another entry of ACL LOG. */
export const REFUSED_PAUSE_MS = 600_000

/** What the looks of the trimmer find out about streams, as metrics. Nothing depends on the permissions that only this needs. */
export class StreamReport {
  readonly #metrics: Pick<Metrics, 'setStream'>
  /** When each question may be asked again, by a clock that only rises. */
  readonly #askedAgain = new Map<string, number>()

  constructor(metrics: Pick<Metrics, 'setStream'>) {
    this.#metrics = metrics
  }

  /** What the next survey is to measure. */
  measures(now: number): Measures {
    return { bytes: this.#mayAsk('bytes', now), memory: this.#mayAsk('memory', now) }
  }

  /** `groups`: all that are known. */
  async report(
    client: RedisClient,
    key: string,
    seen: { survey: TrimSurvey; asked: Measures; plan: TrimPlan; groups: readonly string[] },
    now: number,
  ): Promise<void> {
    const { survey, asked, plan, groups } = seen
    const { bytes, memory } = survey
    if (asked.bytes && bytes === undefined) this.#refused('bytes', now)
    if (asked.memory && memory === undefined) this.#refused('memory', now)
    this.#metrics.setStream(key, {
      ...{ entries: survey.length, bytes, memory, overdueSeconds: plan.overdueMs / 1000, heldBy: plan.heldBy?.name },
      oldestSeconds: survey.length === 0 ? 0 : ageSeconds(survey.now, survey.first),
      deadLetters: await this.#deadLetters(client, key, groups, { now, redisTime: survey.now }),
    })
  }

  async #deadLetters(
    client: RedisClient,
    key: string,
    groups: readonly string[],
    { now, redisTime }: { now: number; redisTime: number },
  ): Promise<DeadLetterGauges[]> {
    const question = `dead letters of ${key}`
    if (!this.#mayAsk(question, now)) return []
    try {
      const found = await countDead(client, key, groups)
      return found.map(({ count, first }, n) => ({
        ...{ group: groups[n] as string, count, oldestSeconds: count === 0 ? 0 : ageSeconds(redisTime, first) },
      }))
    } catch (error) {
      if (!isOfStream(error)) throw error
      this.#refused(question, now)
      return []
    }
  }

  #mayAsk(question: string, now: number): boolean {
    return (this.#askedAgain.get(question) ?? 0) <= now
  }

  #refused(question: string, now: number): void {
    this.#askedAgain.set(question, now + REFUSED_PAUSE_MS)
  }
}

const ageSeconds = (now: number, id: string): number => Math.max(0, now - timeOf(id)) / 1000
