import { relayRoles } from './redis-relay.js'

// The other versions in redis-relay.slow.test.ts.
relayRoles(['7.0'])
