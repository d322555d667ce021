import { expect, onTestFinished, vi } from 'vitest'
import { ConsumerGroup } from '../../src/redis/streams/consumer-group.js'
import { until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, consumerTest as test } from './consumer-env.js'
import { Happened } from './happened.js'
import { Gate } from './watch.js'

const MIB = 2 ** 20
const COUNT = 30

/** Bytes that Redis has sent. */
const sent = async ({ redis }: ConsumerEnv): Promise<number> =>
  Number(/total_net_output_bytes:(\d+)/.exec(await redis.info('stats'))?.[1])

test.for(['at the start', 'after a pause'])(
  '%s a worker reads no more bytes of a backlog than a reply may have',
  async (when, { env }) => {
    const gate = new Gate()
    const consumer = env.consumer({ concurrency: 1, prefetch: 100 }).on(Happened, async (event, context) => {
      if (event.data.n > 0) await gate.passed(context.signal)
      await effect(event, context)
    })
    if (when === 'after a pause') {
      await consumer.start()
      // Small ones, which let expect that the next ones are small.
      for (let n = 0; n < 60; n++) {
        await env.append('things', [{ n: 0 }])
        await env.drained('things', n + 1)
      }
      consumer.pause()
      // A read that waits takes one of these at most.
      await env.append('things', [{ n: 0 }])
      await until(async () => (await env.pending('things')) === 1)
    }
    for (let n = 1; n <= COUNT; n++) await env.append('things', [{ n, pad: 'x'.repeat(MIB) }])
    const before = await sent(env)
    if (when === 'after a pause') consumer.resume()
    else await consumer.start()
    await until(async () => {
      const { queued, running } = await consumer.stats()
      return queued + running >= COUNT
    })
    // 4 MiB in the reply of the read, and the payload of the call that runs.
    expect((await sent(env)) - before).toBeLessThan(6 * MIB)
    gate.open()
    await until(async () => (await env.pending('things')) === 0)
  },
)

test('a backlog of small events is read without scripts after the first, and a batch has its full size', async ({
  env,
}) => {
  const reads = vi.spyOn(ConsumerGroup.prototype, 'readNew')
  onTestFinished(() => reads.mockRestore())
  const sizes: number[] = []
  const consumer = env.consumer({ concurrency: 2 }).onBatch(
    Happened,
    async (events, { tx }) => {
      sizes.push(events.length)
      const values = [events.map(({ id }) => id), events.map(({ data }) => data.n)]
      await tx.query('insert into effect (event, n) select * from unnest($1::text[], $2::int[])', values)
    },
    { size: 200 },
  )
  await env.append(
    'things',
    Array.from({ length: 4_000 }, (_, n) => ({ n })),
  )
  const began = performance.now()
  await consumer.start()
  await env.drained('things', 4_000)
  // After each second in which a slow machine has read nothing.
  const pauses = Math.floor((performance.now() - began) / 1_000)
  expect(sizes.filter((size) => size < 200).length).toBeLessThanOrEqual(2 + pauses)
  expect(reads.mock.calls.length).toBeLessThanOrEqual(1 + pauses)
})
