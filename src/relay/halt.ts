/**
 * Somebody has to act before anything more is published. The relay stays up, says so, and looks again from time to
 * time: it goes on by itself once it is mended.
 */
export class Halt extends Error {
  override name = 'Halt'
  /** `reason`: short and stable, a label. `message`: what was expected, what was found, what to do. */
  constructor(
    readonly reason: string,
    message: string,
  ) {
    super(message)
  }
}
