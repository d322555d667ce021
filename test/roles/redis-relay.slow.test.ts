import { describe } from 'vitest'
import { VERSIONS } from './acl.js'
import { earlierRelayRole, relayRoles, relayWork } from './redis-relay.js'

relayRoles(VERSIONS.filter((version) => version !== '7.0'))

// The same with a stream that has partitions: redis-relay.test.ts.
describe('a relay on 7.0', () => {
  relayWork('7.0', 1)
  earlierRelayRole('7.0')
})
