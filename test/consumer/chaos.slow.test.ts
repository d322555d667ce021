import { chaosTest } from './chaos.js'

chaosTest({ events: 20_000, atEach: 5, atRandom: 10 })
