import { chaosTest } from './chaos.js'

// At full size in chaos.slow.test.ts.
chaosTest({ events: 4_000, kills: 7, freezes: 1 })
