import { VERSIONS } from './acl.js'
import { operatorRole } from './redis-operator.js'

operatorRole(VERSIONS.filter((version) => version !== '7.0'))
