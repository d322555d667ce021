import { VERSIONS } from './acl.js'
import { pingRoles } from './redis-ping.js'

pingRoles(VERSIONS.filter((version) => version !== '7.0'))
