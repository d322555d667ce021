import { BUCKETS, type BucketAnswer, type BucketFacts, MAX_WINDOW_BUCKETS } from '../../postgres/outbox/buckets.js'

/**
 * Which buckets of the outbox may be emptied now, and by checkpoints of what age. Everything here is pure. Clocks and numbers of buckets
 * only say what to ask for: that no row is lost is decided by `outrider.empty_bucket()`, by checkpoints and transactions.
 *
 *     bucket   9      10     11     12 ...  20     21     22     23     0
 *              older                                      before now    after
 *              └────── candidates, oldest first ───┘      └─ never asked ─┘
 */
export interface RetentionSettings {
  /** 0: rows are never emptied. */
  retention: number
  retentionMaxSize: number
  /** Was one of them set, rather than left to its default? */
  isRetentionSet: boolean
}

/**
 * setting_off     `retention` is 0
 * not_asked       an installation from before retention, whose settings do not ask for it
 * setup           `outrider setup` of this version has not run to its end
 * clock_changed   the clock of the server was set: the age of checkpoints is not known
 */
export type KeepReason = 'setting_off' | 'not_asked' | 'setup' | 'clock_changed'

export type RetentionPlan =
  | { action: 'keep'; reason: KeepReason }
  /** `buckets`: oldest first. `windowMs`: by checkpoints that are at least so old. */
  | { action: 'empty'; windowMs: number; buckets: number[] }

/** How old rows may get before they are emptied. */
export const windowOf = ({ retention }: RetentionSettings, bucketMs: number): number =>
  Math.min(retention, MAX_WINDOW_BUCKETS * bucketMs)

/** Rows that are younger, in milliseconds, have all been kept. */
export const keptFor = (
  facts: Pick<BucketFacts, 'now' | 'emptiedUntil' | 'bucketMs'>,
  settings: RetentionSettings,
): number => {
  const window = windowOf(settings, facts.bucketMs)
  return facts.emptiedUntil === undefined ? window : Math.min(window, Math.max(0, facts.now - facts.emptiedUntil))
}

/** `isClockTrusted`: see ServerClock. */
export function planRetention(facts: BucketFacts, settings: RetentionSettings, isClockTrusted: boolean): RetentionPlan {
  if (settings.retention === 0) return { action: 'keep', reason: 'setting_off' }
  if (facts.predatesRetention && !settings.isRetentionSet) return { action: 'keep', reason: 'not_asked' }
  if (!facts.isSetUp) return { action: 'keep', reason: 'setup' }
  if (!isClockTrusted) return { action: 'keep', reason: 'clock_changed' }
  return { action: 'empty', windowMs: windowOf(settings, facts.bucketMs), buckets: candidates(facts) }
}

/** A bucket that is to be emptied because the table is too large, and the ages of checkpoints to try it by, oldest first. */
export interface ExcessAttempt {
  bucket: number
  windowsMs: number[]
}

/** Oldest first, until the table is small enough; none where it is. What was inserted within the last whole bucket stays. */
export function planExcess(facts: BucketFacts, settings: RetentionSettings): ExcessAttempt[] {
  if (bytesOf(facts) <= settings.retentionMaxSize) return []
  const window = windowOf(settings, facts.bucketMs)
  const elapsed = facts.now % facts.bucketMs
  const shortest = Math.min(window, elapsed + facts.bucketMs)
  return candidates(facts).map((bucket) => {
    // One bucket later than its rows, by the clock: their transactions have ended by then, as a rule.
    const own = Math.min(window, Math.max(shortest, elapsed + (ageOf(bucket, facts) - 2) * facts.bucketMs))
    return { bucket, windowsMs: own === shortest ? [own] : [own, shortest] }
  })
}

export const bytesOf = ({ buckets }: Pick<BucketFacts, 'buckets'>): number =>
  buckets.reduce((sum, { bytes }) => sum + bytes, 0)

/** In buckets: 0 is the one that inserts go to. */
const ageOf = (bucket: number, { current }: Pick<BucketFacts, 'current'>): number =>
  (current - bucket + BUCKETS.length) % BUCKETS.length

function candidates(facts: BucketFacts): number[] {
  return facts.buckets
    .filter(({ bucket, isEmpty }) => {
      const age = ageOf(bucket, facts)
      return !isEmpty && age > 1 && age < BUCKETS.length - 1
    })
    .map(({ bucket }) => bucket)
    .sort((one, other) => ageOf(other, facts) - ageOf(one, facts))
}

/**
 * By how long the oldest row has outlived `retention`; `oldestMs`: how old it is, at least. Undefined where rows are kept on purpose. A
 * bucket is emptied as a whole, when its last row is old enough.
 */
export function retentionLag(
  oldestMs: number | undefined,
  facts: Pick<BucketFacts, 'bucketMs' | 'predatesRetention'>,
  settings: RetentionSettings,
): number | undefined {
  if (settings.retention === 0 || (facts.predatesRetention && !settings.isRetentionSet)) return undefined
  return Math.max(0, (oldestMs ?? 0) - windowOf(settings, facts.bucketMs) - facts.bucketMs)
}

/** Reasons that hold up a bucket whatever its rows are. */
const BLOCKING: readonly BucketAnswer[] = ['setup', 'index', 'gap', 'rejected', 'checkpoint', 'slot', 'in_use', 'slow']

/**
 * Why rows that are older than the window stay; undefined: none are known to. `unproven` is the answer of every bucket that is younger,
 * so it counts only where the table is too large.
 */
export function blockedBy(
  answers: readonly { bucket: number; answer: BucketAnswer }[],
  facts: BucketFacts,
  settings: RetentionSettings,
): BucketAnswer | undefined {
  const elapsed = facts.now % facts.bucketMs
  const window = windowOf(settings, facts.bucketMs)
  const isTooLarge = bytesOf(facts) > settings.retentionMaxSize
  const isDue = (bucket: number) => elapsed + (ageOf(bucket, facts) - 1) * facts.bucketMs > window + facts.bucketMs
  for (const { bucket, answer } of answers) {
    if (!isDue(bucket) && !isTooLarge) continue
    if (BLOCKING.includes(answer) || (isTooLarge && answer === 'unproven')) return answer
  }
  return undefined
}
