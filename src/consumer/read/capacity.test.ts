import { expect, test } from 'vitest'
import { itemOf } from '../../../test/consumer/schedule-model.js'
import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import { HandlerTimes } from '../delivery/handler-times.js'
import { Scheduler } from '../delivery/scheduler.js'
import type { Worker } from '../delivery/worker.js'
import { backoffOf, HandlerRegistry } from '../handler-registry.js'
import { settingsOf } from '../options.js'
import { Capacity } from './capacity.js'

test('ten partitions whose first entries wait leave the others their share', () => {
  const scheduler = new Scheduler(10, true)
  const worker = { scheduler, times: new HandlerTimes(), unacknowledged: 0 } as Worker
  const settings = settingsOf(
    { redis: 'redis://localhost', db: {} as never, group: 'billing', ordered: true },
    undefined,
  )
  const registry = new HandlerRegistry({ ...settings, backoff: backoffOf('backoff', undefined) }, new Set())
  const groups = Array.from({ length: 20 }, () => ({}) as ConsumerGroup)
  const capacity = new Capacity(worker, settings, registry, () => groups)
  const keyOf = (n: number) => `things:${n}`
  let added = 0
  const fill = (key: string) => {
    while (capacity.roomOf(key) > 0) {
      const delivery = itemOf(added++, { key, orderingKey: key })
      scheduler.add(delivery)
      if (delivery.state === 'queued') scheduler.wait(delivery)
    }
  }
  for (let n = 0; n < 10; n++) fill(keyOf(n))
  expect(scheduler.heldOf(keyOf(0))).toBe(1_000)
  for (let n = 10; n < 20; n++) expect(capacity.roomOf(keyOf(n))).toBe(250)
  for (let n = 10; n < 20; n++) fill(keyOf(n))
  expect(scheduler.held).toBeLessThanOrEqual(10_000)
})
