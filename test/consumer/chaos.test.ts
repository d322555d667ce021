import { chaosTest } from './chaos.js'

// At full size in chaos.slow.test.ts.
chaosTest({ events: 2_000, atEach: 1, atRandom: 2 })
