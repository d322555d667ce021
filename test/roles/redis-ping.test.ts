import { pingRoles } from './redis-ping.js'

// The other versions in redis-ping.slow.test.ts.
pingRoles(['7.0'])
