/** A failure of the walsender that each retry repeats: WAL from while the publication was missing, before PostgreSQL 18. */
export const isUndecodable = (error: unknown): error is Error =>
  error instanceof Error && 'code' in error && error.code === '42704' && error.message.startsWith('publication ')

/** The gaps of the lineage are repaired: the next session streams. */
export class RepairedError extends Error {
  override name = 'RepairedError'
}

/** A row of a transaction that a repair awaited is missing: the repair begins again. */
export class UnsettledError extends Error {
  override name = 'UnsettledError'
  /** `reason`: of a gap that is open again. */
  constructor(
    readonly reason: string,
    message: string,
  ) {
    super(message)
  }
}

/** Redis refuses or does not answer while a gap is repaired: the next session tries again. */
export class RedisFaultError extends Error {
  override name = 'RedisFaultError'
}

/**
 * An operator has to act before anything more is published. The relay stays up, says so, and looks again from time to
 * time: it continues by itself once it is fixed.
 */
export class HaltError extends Error {
  override name = 'HaltError'
  /**
   * `reason`: short and stable, a label. `message`: what was expected, what was found, what to do. `commands`: those of it that a
   * person can run, where a repair halts.
   */
  constructor(
    readonly reason: string,
    message: string,
    readonly commands: readonly string[] = [],
  ) {
    super(message)
  }
}

/** A gap was recorded. Where the configuration says so, the next session repairs it; else it halts the relay. */
export class GapError extends HaltError {
  override name = 'GapError'
  /** `finding`: the gap, as a sentence. */
  constructor(
    reason: string,
    message: string,
    readonly incident: string,
    readonly finding: string,
  ) {
    super(reason, message)
  }
}
