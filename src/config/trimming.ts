import type { Config } from './schema.js'

/** What is kept of a stream, and for whom. Durations in milliseconds. */
export interface TrimPolicy {
  /** Undefined: entries do not go for their age. */
  retention: number | undefined
  /** Entries that every group has finished; undefined: their number does not matter. */
  maxFinished: number | undefined
  /** Entries, whether groups have finished them or not; undefined: without end. */
  maxLength: number | undefined
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
 * The settings of the stream, over those of every stream, over the defaults. A retention of 0 keeps everything. A number without a
 * retention has the default one beside it, and a retention of its own has no number beside it. Pure.
 */
export function trimPolicyOf(streams: Config['streams'], stream: string, byDefault: boolean): TrimPolicy {
  const settings = { ...streams[EVERY_STREAM], ...streams[stream] }
  const { retention, maxFinished, maxLength, deadLetterRetention, groups = [] } = settings
  const others = { maxLength, deadLetterRetention, groups }
  if (retention !== undefined) return { retention: retention === 0 ? undefined : retention, maxFinished, ...others }
  if (!byDefault) return { retention: undefined, maxFinished, ...others }
  return { ...DEFAULT_TRIM, ...(maxFinished !== undefined && { maxFinished }), ...others }
}

/** Does the configuration leave it to the installation whether streams without settings of their own are trimmed? Pure. */
export function isLeftToDefault({ [EVERY_STREAM]: every }: Config['streams']): boolean {
  return every?.retention === undefined && every?.maxFinished === undefined && every?.maxLength === undefined
}
