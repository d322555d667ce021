import { VERSIONS } from './acl.js'
import { relayRoles } from './redis-relay.js'

relayRoles(VERSIONS.filter((version) => version !== '7.0'))
