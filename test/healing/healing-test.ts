import { expect, test } from 'vitest'
import { needsProcess } from '../../testkit/services/index.js'
import { type HealingOptions, runHealing } from './healing-run.js'

/** A loss may take so long, with kills and a second loss: what else the machine does is no property of it. */
const TIMEOUT_MS = 1_800_000

/** Declares the test with so many losses. The seed is the same each time, so that a run can be repeated; `npm run test:healing` takes any. */
export function healingTest(
  options: Pick<HealingOptions, 'losses' | 'kinds' | 'linger' | 'isShort' | 'seed' | 'trims'>,
): void {
  const { losses, trims } = options
  test(`${losses} losses under load, ${trims ? 'while streams are trimmed, ' : ''}with kills in mid-repair, are repaired: nothing lost, invented, altered or out of order, and every effect once`, {
    timeout: TIMEOUT_MS,
  }, async (context) => {
    needsProcess(context)
    const seed = Number(process.env.OUTRIDER_TEST_SEED ?? options.seed)
    expect(await runHealing({ ...options, seed, print: console.log })).toEqual([])
  })
}
