import { VERSIONS } from './acl.js'
import { consumerRoles } from './redis-consumer.js'

consumerRoles(VERSIONS.filter((version) => version !== '7.0'))
