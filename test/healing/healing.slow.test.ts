import { healingTest } from './healing-test.js'

healingTest({ losses: 12, seed: 42 })
healingTest({ losses: 12, seed: 43, trims: true })
