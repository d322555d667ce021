import type { Config } from './schema.js'

/** What is kept of a stream, and for whom. Durations in milliseconds. */
export interface TrimPolicy {
  /** Undefined: entries do not go for their age. */
  retention: number | undefined
  /** Entries that every group has finished; undefined: their number does not matter. */
  maxFinished: number | undefined
  /** Entries, whether groups have finished them or not; undefined: without end. */
  maxLength: number | undefined
  /** Percent of `maxmemory` of Redis beyond which what every group has finished goes early; undefined: at no percentage. */
  trimAtMemory: number | undefined
  /** Of dead letters; undefined: they stay. */
  deadLetterRetention: number | undefined
  /** Consumer groups that are waited for, also before they exist. */
  groups: readonly string[]
}

/** The name under `streams` whose settings are those of every stream. */
export const EVERY_STREAM = '*'

/** Of a stream without settings of its own, where streams are trimmed by default. */
export const DEFAULT_TRIM = { retention: 7 * 86_400_000, maxFinished: 1_000_000 } as const

/**
 * The settings of the stream, over those of every stream, over the defaults. A retention of 0 keeps everything, and a `trimAtMemory` of 0
 * is none. A number or a percentage without a retention has the default one beside it; a retention of its own has no number. Pure.
 */
export function trimPolicyOf(streams: Config['streams'], stream: string, byDefault: boolean): TrimPolicy {
  const settings = { ...streams[EVERY_STREAM], ...streams[stream] }
  const { retention, maxFinished, maxLength, trimAtMemory, deadLetterRetention, groups = [] } = settings
  const defaults = byDefault && retention === undefined ? DEFAULT_TRIM : undefined
  return {
    retention: (retention ?? defaults?.retention) || undefined,
    maxFinished: maxFinished ?? defaults?.maxFinished,
    trimAtMemory: trimAtMemory || undefined,
    ...{ maxLength, deadLetterRetention, groups },
  }
}

/** Does the configuration leave it to the installation whether streams without settings of their own are trimmed? Pure. */
export function isLeftToDefault({ [EVERY_STREAM]: every }: Config['streams']): boolean {
  return [every?.retention, every?.maxFinished, every?.maxLength, every?.trimAtMemory].every(
    (setting) => setting === undefined,
  )
}
