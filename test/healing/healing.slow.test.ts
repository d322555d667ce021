import { healingTest } from './healing-test.js'

healingTest({ losses: 12, seed: 42 })
