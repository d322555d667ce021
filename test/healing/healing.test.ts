import { healingTest } from './healing-test.js'
import { LOSSES } from './losses.js'

// All of them, and more often, in healing.slow.test.ts.
healingTest({ losses: 3, seed: 7, kinds: LOSSES.filter(({ isSlow }) => !isSlow), linger: 1_000, isShort: true })

healingTest({
  ...{ losses: 3, seed: 11, linger: 1_000, isShort: true, trims: true },
  kinds: LOSSES.filter(({ what }) => /FLUSHALL|DEL of a stream$|rolled back/.test(what)),
})
