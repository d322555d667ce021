import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import type { GroupOutcome, Outcome } from '../../examples/demo/summary.js'
import { Tally } from '../../examples/demo/writer.js'
import { compare } from '../../testkit/oracle/differences.js'
import type { Truth } from '../../testkit/oracle/truth.js'

export const main = fileURLToPath(new URL('../../examples/demo/main.ts', import.meta.url))

/** Ended with the test, also where that fails before. */
export function demo(...args: string[]) {
  const child = spawn(process.execPath, ['--import', 'tsx', main, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  onTestFinished(() => void child.kill())
  return child
}

/** Where the streams hold what was committed. */
export function outcomeOf(truth: Truth[], ...groups: GroupOutcome[]): Outcome {
  const seen = truth.map((event, n) => ({ ...event, entry: `${n}-1`, sequence: String(n) }))
  return { differences: compare(truth, seen), groups, tally: new Tally(), latencies: [], seconds: 1, takeovers: [] }
}

export const allDone = (truth: Truth[]): GroupOutcome => ({
  name: 'billing',
  effects: { count: truth.length, lost: [], doubled: [], phantom: [] },
  pending: 0,
  duplicates: 0,
  kills: 0,
})
