import { operatorRole } from './redis-operator.js'

// The other versions in redis-operator.slow.test.ts.
operatorRole(['7.0'])
