/**
 * Losses of every kind, one after the other, under load and with kills of the relay in mid-repair: does everything heal?
 *
 *   npm run test:healing -- [--losses 20] [--seed N] [--only TEXT] [--trims]
 *
 * `--only`: losses whose name contains the text. `--trims`: streams are trimmed meanwhile. Prints a line a loss and a summary; exit code 1 if anything is wrong in the end.
 * The seed repeats what happens, but not the moment to the millisecond.
 */
import { parseArgs } from 'node:util'
import { runHealing } from './healing-run.js'
import { LOSSES } from './losses.js'

const { values } = parseArgs({
  options: {
    ...{ losses: { type: 'string' }, seed: { type: 'string' }, only: { type: 'string' } },
    trims: { type: 'boolean' },
  },
})
const losses = Number(values.losses ?? 20)
const seed = Number(values.seed ?? Date.now() % 1_000_000)
const kinds = LOSSES.filter(({ what }) => what.includes(values.only ?? ''))
if (!Number.isInteger(losses) || losses < 1 || !Number.isInteger(seed) || kinds.length === 0) {
  console.error(
    `Expected --losses as a number from 1 on, --seed as a number, and --only as a part of one of these: ${LOSSES.map(({ what }) => what).join('; ')}.`,
  )
  process.exit(2)
}
const violations = await runHealing({ losses, seed, kinds, trims: values.trims ?? false, print: console.log })
for (const violation of violations) console.error(violation)
// By itself a process once did not end: Node span in its own clean-up of handles.
process.exit(violations.length === 0 ? 0 : 1)
