import { expect, test } from 'vitest'
import {
  classifyWalsender,
  type WalsenderLimits,
  WalsenderMonitor,
  type WalsenderObservation,
} from './walsender-monitor.js'

test.each([
  // PostgreSQL 15 and 16, then 17 and later.
  ['idle', 'Client', 'WalSenderWaitForWAL'],
  ['idle', 'Client', 'WalSenderWaitForWal'],
  ['idle', 'Activity', 'WalSenderMain'],
  ['idle', 'Client', 'ClientRead'],
  ['waiting_for_client', 'Client', 'WalSenderWriteData'],
  ['waiting_for_client', 'Client', 'ClientWrite'],
  ['standby_not_confirming', 'Client', 'WaitForStandbyConfirmation'],
  ['working', null, null],
  ['working', 'IO', 'ReorderBufferWrite'],
  ['working', 'LWLock', 'WALRead'],
  ['working', 'Lock', 'relation'],
] as const)('a walsender is %s at wait event %s / %s', (state, waitEventType, waitEvent) => {
  expect(classifyWalsender({ waitEventType, waitEvent })).toBe(state)
})

test('a walsender without a process is gone', () => {
  expect(classifyWalsender(undefined)).toBe('gone')
})

const LIMITS: WalsenderLimits = { silence: 40, answer: 10, waitingForClient: 40, standby: 5, report: 20 }

const found = (waitEventType: string | null, waitEvent: string | null, spilledBytes = 0): WalsenderObservation => ({
  activity: { waitEventType, waitEvent, spilledBytes },
  silentStandbys: [],
})
const WORKING = found(null, null)
const IDLE = found('Client', 'WalSenderWaitForWal')
const WAITING = found('Client', 'WalSenderWriteData')
const HELD: WalsenderObservation = {
  ...found('Client', 'WaitForStandbyConfirmation'),
  silentStandbys: [{ name: 'standby_1', problem: 'missing' }],
}
const GONE: WalsenderObservation = { activity: undefined, silentStandbys: [] }

/** A monitor on a clock of seconds whose walsender is as `see` says. */
function monitored() {
  let now = 0
  let answer: WalsenderObservation | Promise<WalsenderObservation> = IDLE
  const stream = { paused: false, heardAt: 0, progress: 0 }
  const seen = { failed: '', decoding: 0, reports: 0, spilled: 0, held: '', asked: 0 }
  const monitor = new WalsenderMonitor({
    limits: LIMITS,
    clock: () => now,
    stream,
    ask: async () => answer,
    requestReply: () => {
      seen.asked += 1
    },
    observe: {
      decoding: (silence) => {
        seen.decoding = silence
      },
      stillDecoding: (_silence, spilled) => {
        seen.reports += 1
        seen.spilled = spilled
      },
      held: (message) => {
        seen.held = message ?? ''
      },
    },
    failed: (error) => {
      seen.failed ||= String(error)
    },
  })
  /** From now on it is like this, looked at every 2 s until `until`. */
  const see = async (until: number, observation: typeof answer) => {
    answer = observation
    while (now < until) {
      now += 2
      monitor.poll()
      await new Promise(setImmediate)
    }
  }
  return { stream, seen, see, hear: () => Object.assign(stream, { heardAt: now }) }
}

test('a silent walsender that works is waited for, with the time and the bytes spilled meanwhile', async () => {
  const { see, seen } = monitored()
  await see(30, found(null, null, 1_000))
  await see(300, found('IO', 'ReorderBufferWrite', 6_000))
  expect(seen).toMatchObject({ failed: '', decoding: 300, spilled: 5_000, reports: 14 })
})

test('once it sends again it is decoding no longer', async () => {
  const { see, seen, hear } = monitored()
  await see(60, WORKING)
  hear()
  await see(62, WORKING)
  expect(seen).toMatchObject({ failed: '', decoding: 0 })
})

test('a silent walsender that is idle is given up at the second look', async () => {
  const { see, seen } = monitored()
  await see(40, IDLE)
  expect(seen.failed).toBe('')
  await see(42, IDLE)
  expect(seen.failed).toMatch(/idle/)
})

test('a walsender that is idle while its answer is on its way is kept', async () => {
  const { see, seen, hear } = monitored()
  await see(60, WORKING)
  await see(62, IDLE)
  hear()
  await see(70, IDLE)
  expect(seen.failed).toBe('')
})

test('a silent walsender that waits for this connection is given up 40 s after it was first seen to', async () => {
  const { see, seen } = monitored()
  await see(60, WORKING)
  await see(100, WAITING)
  expect(seen.failed).toBe('')
  await see(102, WAITING)
  expect(seen.failed).toMatch(/waits for this connection/)
})

test('a silent walsender that is gone is given up at once, also while nothing is read', async () => {
  const { see, seen } = monitored()
  await see(40, GONE)
  expect(seen.failed).toMatch(/process has ended/)
  const paused = monitored()
  paused.stream.paused = true
  await paused.see(2, GONE)
  expect(paused.seen.failed).toMatch(/process has ended/)
})

test('while nothing is read, silence says nothing', async () => {
  const { see, seen, stream } = monitored()
  stream.paused = true
  await see(200, IDLE)
  await see(400, WAITING)
  expect(seen.failed).toBe('')
})

test('a silent stream next to a connection that does not answer for 10 s is given up', async () => {
  const { see, seen } = monitored()
  await see(38, WORKING)
  await see(48, new Promise(() => {}))
  expect(seen.failed).toBe('')
  await see(50, WORKING)
  expect(seen.failed).toMatch(/does not answer on the other connection/)
})

test('a stream that stands still while standbys do not confirm is held, and the slots are named', async () => {
  const { see, seen, stream } = monitored()
  stream.heardAt = 1_000
  await see(6, HELD)
  expect(seen.held).toBe('')
  await see(8, HELD)
  expect(seen).toMatchObject({ held: expect.stringContaining('standby_1 is missing'), failed: '' })
  stream.progress += 1
  await see(10, HELD)
  expect(seen.held).toBe('')
  await see(20, HELD)
  expect(seen.held).not.toBe('')
  await see(22, IDLE)
  expect(seen.held).toBe('')
})

test('a stream that moves next to standbys that confirm late is not held: it is asked whether it moves', async () => {
  const { see, seen, stream } = monitored()
  stream.heardAt = 1_000
  for (let now = 2; now < 60; now += 2) {
    await see(now, HELD)
    stream.progress = seen.asked
    expect(seen.held).toBe('')
  }
})
