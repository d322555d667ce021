import { expect, test } from 'vitest'
import { PLANTS, planted } from './plants.js'
import { simulate, simulateAll } from './run.js'

const RUNS = 2_000
/** Runs in which a bug must be found. */
const RUNS_WITH_PLANT = 500

const seed = Number(process.env.OUTRIDER_TEST_SEED ?? 1)

test(`in ${RUNS} simulated worlds everything that was lost is repaired: nothing lost, invented, doubled or out of order`, () => {
  expect([...simulateAll(seed, RUNS)]).toEqual([])
})

test.each(PLANTS)('the simulation finds the planted bug $name', ({ name, shows, from = 1 }) => {
  for (let at = from; at < from + RUNS_WITH_PLANT; at++) {
    if (simulate(at, planted(name)).some((violation) => shows.test(violation))) return
  }
  expect.fail(`Expected a violation that matches ${shows}, found none in ${RUNS_WITH_PLANT} runs.`)
})
