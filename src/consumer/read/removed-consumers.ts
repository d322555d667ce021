import type { ConsumerState } from '../../redis/streams/group-replies.js'

/**
 * The consumers that someone has removed with XGROUP DELCONSUMER while entries were pending with them, by two looks at a
 * stream. Pure.
 *
 * The group itself removes only names with nothing pending, and a live consumer gives a sign of life more often than each
 * `claimAfter` (milliseconds). So a silent name with pending entries does not go by itself: they have to be claimed first. Once
 * it was silent for `deadAfter`, the first worker that looks at the group removes it as soon as they are claimed.
 */
export function removedConsumers(
  before: readonly ConsumerState[],
  now: readonly ConsumerState[],
  claimAfter: number,
  deadAfter: number,
): ConsumerState[] {
  const names = new Set(now.map(({ name }) => name))
  const isKept = ({ pending, idle }: ConsumerState) => pending > 0 && idle > claimAfter && idle < deadAfter
  return before.filter((consumer) => isKept(consumer) && !names.has(consumer.name))
}
