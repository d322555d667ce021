import { type Decisions, PRODUCT } from './decisions.js'
import { Random } from './random.js'
import { World } from './world.js'

/** One run; gives what is wrong in the end. The same seed does the same again. */
export function simulate(seed: number, decisions: Decisions = PRODUCT, trace?: (line: string) => void): string[] {
  const world = new World(new Random(seed), decisions, trace)
  world.run()
  return world.violations
}

/** Runs with the seeds from `seed` on; gives those in which something is wrong. */
export function* simulateAll(seed: number, runs: number, decisions?: Decisions): Generator<[number, string[]]> {
  for (let next = seed; next < seed + runs; next++) {
    const violations = simulate(next, decisions)
    if (violations.length > 0) yield [next, violations]
  }
}
