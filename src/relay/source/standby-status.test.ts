import { describe, expect, it } from 'vitest'
import { inboundTimeout, standbyStatusInterval, worthConfirming } from './standby-status.js'

describe('standby status messages', () => {
  it.each([
    [60_000, 10_000],
    [5_000, 5_000 / 3],
    [300, 200],
    [3_600_000, 10_000],
    [0, 10_000],
  ])('with a wal_sender_timeout of %d ms is %d ms', (timeout, interval) => {
    expect(standbyStatusInterval(timeout)).toBe(interval)
  })

  it.each([300, 1_000, 5_000, 30_000, 60_000, 3_600_000])(
    'meets a wal_sender_timeout of %d ms at least once',
    (timeout) => {
      expect(standbyStatusInterval(timeout)).toBeLessThan(timeout)
    },
  )

  it('lets several answers fail to come before the server is taken for dead', () => {
    for (const timeout of [0, 300, 5_000, 60_000]) {
      expect(inboundTimeout(timeout)).toBeGreaterThanOrEqual(4 * standbyStatusInterval(timeout))
      expect(inboundTimeout(timeout)).toBeGreaterThanOrEqual(10_000)
    }
  })
})

describe('WAL that others wrote', () => {
  const confirmed = 0x16b374d848n

  it.each([
    ['a megabyte, at once', 1_048_576n, 0, true],
    ['less than a megabyte, not yet', 1_048_575n, 9_999, false],
    ['less than a megabyte, after ten seconds', 1_048_575n, 10_000, true],
    ['16 KiB, after ten seconds', 16_384n, 10_000, true],
    ['what confirming itself wrote, never', 16_383n, 86_400_000, false],
    ['nothing, never', 0n, 86_400_000, false],
    ['an end before what is confirmed, never', -5_000_000n, 86_400_000, false],
  ])('is worth confirming: %s', (_, ahead, since, worth) => {
    expect(worthConfirming(confirmed + ahead, confirmed, since)).toBe(worth)
  })
})
