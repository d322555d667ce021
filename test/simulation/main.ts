/**
 * Repairs in a simulated world: do the decisions of the relay hold, whatever happens between two steps?
 *
 *   npm run test:simulation -- [--runs 100000] [--seed 1] [--plant NAME] [--trace]
 *
 * Runs with the seeds from S on, on all cores. A violation names its seed: `--runs 1 --seed S --trace` tells what happened. `--plant`: with a
 * bug of plants.ts. Exit code 1 if anything is wrong.
 */
import { fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { PLANTS, planted } from './plants.js'
import { simulate, simulateAll } from './run.js'

/** The argument of a process that runs a share. */
const SHARE = 'share'
/** Seeds that are named. */
const SHOWN = 20

// Thousands of sessions end with an error, and nothing looks at its stack.
Error.stackTraceLimit = 0

type Found = [seed: number, violations: string[]]

/** In a process of its own: what is wrong. */
function simulateApart(seed: number, runs: number, plant: string | undefined): Promise<Found[]> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), [SHARE, String(seed), String(runs), plant ?? ''])
    child.once('message', (found: Found[]) => resolve(found))
    child.once('exit', (code) => reject(new Error(`Expected a result, found exit code ${code}.`)))
  })
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      ...{ runs: { type: 'string' }, seed: { type: 'string' }, plant: { type: 'string' } },
      trace: { type: 'boolean' },
    },
  })
  const runs = Number(values.runs ?? 100_000)
  const seed = Number(values.seed ?? 1)
  const { plant, trace } = values
  const isKnown = plant === undefined || planted(plant) !== undefined
  if (!Number.isInteger(runs) || runs < 1 || !Number.isInteger(seed) || !isKnown) {
    const names = PLANTS.map(({ name }) => name).join(', ')
    console.error(`Expected --runs as a number from 1 on, --seed as a number, and --plant as one of: ${names}.`)
    return 2
  }
  if (trace) return simulate(seed, plant === undefined ? undefined : planted(plant), console.log).length > 0 ? 1 : 0
  const began = performance.now()
  const processes = Math.min(runs, availableParallelism())
  const shares = Array.from({ length: processes }, (_, n) => {
    const from = Math.floor((runs * n) / processes)
    return simulateApart(seed + from, Math.floor((runs * (n + 1)) / processes) - from, plant)
  })
  const found = (await Promise.all(shares)).flat()
  for (const [at, violations] of found.slice(0, SHOWN)) console.error(`seed ${at}: ${violations.join('; ')}`)
  const seconds = (performance.now() - began) / 1_000
  console.log(
    `${runs} runs from seed ${seed} in ${seconds.toFixed(1)} s (${Math.round(runs / seconds)} a second, ${processes} processes): ` +
      `something wrong in ${found.length}`,
  )
  return found.length > 0 ? 1 : 0
}

const [first, seed, runs, plant] = process.argv.slice(2)
if (first === SHARE) process.send?.([...simulateAll(Number(seed), Number(runs), planted(plant ?? ''))])
else process.exitCode = await main()
