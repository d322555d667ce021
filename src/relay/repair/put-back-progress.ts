/** How far the rows of a repair are put back. */
export interface PutBackProgress {
  /** Already in their streams. */
  events: number
  /** Rows of the streams that are repaired, as far as it is known. */
  of: number
  remaining: number
  /** Events a second, since the first was handed on; undefined where there is nothing to measure yet. */
  perSecond: number | undefined
  /** Undefined where nothing is appended: no rate says when that ends. */
  secondsLeft: number | undefined
}

/** `milliseconds`: since the first row was handed on. Pure. */
export function putBackProgress(events: number, of: number, milliseconds: number): PutBackProgress {
  const remaining = Math.max(0, of - events)
  const rate = events > 0 && milliseconds > 0 ? (events * 1_000) / milliseconds : undefined
  return {
    ...{ events, of, remaining },
    perSecond: rate && Math.max(1, Math.round(rate)),
    secondsLeft: rate && Math.ceil(remaining / rate),
  }
}

/** In a sentence. Pure. */
export function describePutBack({ events, of, remaining, perSecond, secondsLeft }: PutBackProgress): string {
  const rate = perSecond === undefined ? '' : `, ${perSecond}/s, about ${secondsLeft} s left`
  return `${events} of ${of} events are put back, ${remaining} remaining${rate}.`
}
