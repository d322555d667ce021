import type { AlertCase } from './alert-cases.js'
import { AFTER, always, BEFORE, gone, ORDERS, of, PLACED, turning, worker } from './alert-health.js'

/** The alerts about consumer groups. */
export const CONSUMERS: AlertCase[] = [
  { alert: 'OutriderConsumerGone', what: 'the last worker was removed', wrong: gone('job="billing"') },
  {
    alert: 'OutriderConsumerStuck',
    what: 'entries wait and nothing runs',
    wrong: {
      [worker('running')]: turning(2, 0),
      [worker('processed_total', `${ORDERS},${PLACED},result="done"`)]: turning('0+100', 100 * BEFORE),
      ...of('retries_total', always(0)),
    },
  },
  {
    alert: 'OutriderConsumerLag',
    what: 'more comes in than is done',
    wrong: { [worker('lag', ORDERS)]: turning(5, '5+50') },
  },
  {
    alert: 'OutriderConsumerLagUnknown',
    what: 'Redis cannot tell',
    wrong: { [worker('lag_known', ORDERS)]: turning(1, 0), [worker('lag', ORDERS)]: turning(5, 0) },
  },
  {
    alert: 'OutriderConsumerPendingOld',
    what: 'an event fails again and again',
    wrong: { [worker('oldest_pending_seconds', ORDERS)]: turning(2, '2+60') },
  },
  {
    alert: 'OutriderConsumerHandlerStuck',
    what: 'a handler does not return',
    wrong: { [worker('oldest_running_seconds')]: turning(2, '2+60') },
  },
  {
    alert: 'OutriderConsumerBackoff',
    what: 'an event fails for more than a quarter of an hour',
    wrong: { [worker('backoff_oldest_seconds', ORDERS)]: turning('_', '1+60') },
  },
  {
    alert: 'OutriderConsumerBreakerOpen',
    what: 'a handler fails for minutes',
    wrong: { [worker('breaker_open', PLACED)]: turning(0, 1) },
  },
  {
    alert: 'OutriderConsumerTrimmed',
    what: 'the first one is lost',
    wrong: { [worker('trimmed_total', ORDERS)]: `_x${BEFORE + AFTER - 20} 1x20` },
  },
  {
    alert: 'OutriderConsumerTrimmed',
    what: 'one more is lost',
    wrong: { [worker('trimmed_total', ORDERS)]: `1x${BEFORE + AFTER - 20} 2x20` },
  },
  {
    alert: 'OutriderConsumerTrimmed',
    what: 'some are lost unread',
    wrong: { [worker('unread_trimmed_total', ORDERS)]: `_x${BEFORE + AFTER - 20} 76x20` },
  },
  {
    alert: 'OutriderConsumerRemoved',
    what: 'the first one is removed',
    wrong: { [worker('removed_pending_total', ORDERS)]: `_x${BEFORE + AFTER - 20} 3x20` },
  },
  {
    alert: 'OutriderConsumerRemoved',
    what: 'one more is removed',
    wrong: { [worker('removed_pending_total', ORDERS)]: `3x${BEFORE + AFTER - 20} 4x20` },
  },
  {
    alert: 'OutriderDeadLetters',
    what: 'the first of its kind',
    wrong: {
      [worker('dead_letters_total', `${ORDERS},${PLACED},reason="crashed"`)]: `_x${BEFORE + AFTER - 20} 1x20`,
    },
  },
  {
    alert: 'OutriderDeadLetters',
    what: 'one more',
    wrong: {
      [worker('dead_letters_total', `${ORDERS},${PLACED},reason="expired"`)]: `4x${BEFORE + AFTER - 20} 5x20`,
    },
  },
  {
    alert: 'OutriderConsumerRetries',
    what: 'one attempt of three fails',
    wrong: { [worker('retries_total', `${PLACED},reason="failed"`)]: turning('0+1', `${BEFORE}+50`) },
  },
  {
    alert: 'OutriderConsumerRetries',
    what: 'every attempt fails, and always did',
    wrong: {
      ...of('processed_total', undefined),
      [worker('retries_total', `${PLACED},reason="failed"`)]: turning('_', '0+50'),
    },
  },
]
