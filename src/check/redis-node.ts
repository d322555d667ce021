import type { Config } from '../config/schema.js'
import { blocker, type Finding, type Fix, inConfiguration, warning } from './finding.js'
import { lacksConfigFile, type NodeFacts, STARTED_WITH, versionOf } from './redis-facts.js'

/** What the configuration expects of Redis. */
export interface Expectation {
  durability: Config['durability']
  mode: 'standalone' | 'sentinel' | 'cluster'
}

/** One node's settings, memory and state. What INFO does not tell is not judged. Pure. */
export function assessNode(facts: NodeFacts, expectation: Expectation): Finding[] {
  const findings = [
    version(facts),
    cluster(facts, expectation),
    role(facts),
    eviction(facts),
    memory(facts),
    persistence(facts, expectation),
    lastWrites(facts),
  ].filter((finding) => finding !== undefined)
  return facts.name === '' ? findings : findings.map((finding) => ({ ...finding, is: `${facts.name}: ${finding.is}` }))
}

/** How to change a setting, for good: where CONFIG REWRITE has no file to write to, the change would end with the process. */
function configFixes(facts: NodeFacts, name: string, value: string): Fix[] {
  if (facts.config === 'gone') {
    return [{ how: "In the service's own parameters, where CONFIG is not offered", text: `${name} ${value}` }]
  }
  const set = `CONFIG SET ${name} ${value}`
  if (!lacksConfigFile(facts)) return [{ how: 'In redis-cli, as an administrator', text: `${set}\nCONFIG REWRITE` }]
  return [
    { how: 'In redis-cli, as an administrator; this lasts until Redis restarts', text: set },
    { how: `In ${STARTED_WITH}, because Redis runs without a configuration file`, text: `${name} ${value}` },
  ]
}

function version({ info }: NodeFacts): Finding | undefined {
  const { product, version } = versionOf(info)
  const [major = 0, minor = 0] = version.split('.').map(Number)
  if (version === 'unknown' || product === 'Valkey' || major > 6 || (major === 6 && minor >= 2)) return undefined
  return blocker({
    id: 'redis-version',
    is: `Redis ${version}`,
    expected: 'Redis 6.2 or later, or Valkey',
    why: 'older ones lack what the scripts and consumers use',
    fix: [{ how: 'Upgrade the server', text: 'https://redis.io/docs/latest/operate/oss_and_stack/install/' }],
  })
}

function cluster({ info }: NodeFacts, { mode }: Expectation): Finding | undefined {
  if (info.cluster_enabled !== '1' || mode === 'cluster') return undefined
  return blocker({
    id: 'redis-cluster',
    is: 'a node of a cluster, in a URL for a single server',
    expected: 'redis+cluster://',
    why: 'streams of other slots would be refused with MOVED',
    fix: [inConfiguration('OUTRIDER_REDIS_URL=redis+cluster://<host>:<port>')],
  })
}

function role({ info }: NodeFacts): Finding | undefined {
  if (info.role === undefined || info.role === 'master') return undefined
  return blocker({
    id: 'redis-replica',
    is: `a ${info.role === 'slave' ? 'replica' : info.role} of ${info.master_host}:${info.master_port}`,
    expected: 'the primary',
    why: 'a replica takes no writes',
    fix: [inConfiguration(`OUTRIDER_REDIS_URL=redis://${info.master_host}:${info.master_port}`)],
  })
}

function eviction(facts: NodeFacts): Finding | undefined {
  const policy = facts.info.maxmemory_policy
  if (policy === undefined || policy === 'noeviction') return undefined
  const all = policy.startsWith('allkeys')
  return (all ? blocker : warning)({
    id: 'eviction-policy',
    is: `maxmemory-policy is ${policy}`,
    expected: 'noeviction',
    why: all
      ? 'Redis would delete whole streams when memory runs out'
      : 'Redis would delete keys with a time to live when memory runs out, and it should refuse instead',
    fix: configFixes(facts, 'maxmemory-policy', 'noeviction'),
  })
}

const NEARLY = 0.8
const FULL = 0.98
const MEBIBYTE = 1_048_576

function memory(facts: NodeFacts): Finding | undefined {
  const most = Number(facts.info.maxmemory)
  const used = Number(facts.info.used_memory)
  if (most === 0) {
    const system = Number(facts.info.total_system_memory)
    const suggestion = system > 0 ? `${Math.max(64, Math.floor((system * 0.6) / MEBIBYTE))}mb` : '<size>'
    return warning({
      id: 'maxmemory-unset',
      is: 'maxmemory is 0: no limit',
      expected: 'a limit below the memory of the machine',
      why: 'without one the kernel ends Redis when memory runs out, instead of Redis refusing writes',
      fix: configFixes(facts, 'maxmemory', suggestion),
    })
  }
  if (!(used >= most * NEARLY)) return undefined
  const full = used >= most * FULL
  return (full ? blocker : warning)({
    id: 'memory-low',
    is: `${Math.floor((used / most) * 100)} % of maxmemory (${Math.round(most / MEBIBYTE)} MiB) is used`,
    expected: `less than ${NEARLY * 100} %`,
    why: full ? 'Redis refuses writes' : 'when it is full Redis refuses writes, and events wait in Postgres',
    fix: configFixes(facts, 'maxmemory', `${Math.ceil((Math.max(used, most) * 2) / MEBIBYTE)}mb`),
  })
}

function persistence(facts: NodeFacts, { durability }: Expectation): Finding | undefined {
  if (facts.info.aof_enabled !== '0') return undefined
  const asked = durability.includes('fsync')
  const rdb = facts.save === undefined ? '' : facts.save === '' ? ', and no RDB either' : ', RDB only'
  return (asked ? blocker : warning)({
    id: 'persistence-off',
    is: `the append-only file is off${rdb}${asked ? `, and durability is ${durability}` : ''}`,
    expected: 'appendonly yes',
    why: asked
      ? 'the level cannot be met, so nothing is ever confirmed'
      : 'a restart of Redis loses events, and where consumers were: a gap',
    fix: configFixes(facts, 'appendonly', 'yes'),
  })
}

function lastWrites({ info }: NodeFacts): Finding | undefined {
  const failed = [
    info.aof_last_write_status === 'err' && info.aof_enabled === '1' && 'writing the append-only file',
    info.aof_last_bgrewrite_status === 'err' && info.aof_enabled === '1' && 'rewriting the append-only file',
    info.rdb_last_bgsave_status === 'err' && 'saving to disk',
  ].filter((what) => typeof what === 'string')
  if (failed.length === 0) return undefined
  return (info.aof_last_write_status === 'err' ? blocker : warning)({
    id: 'persistence-failing',
    is: `${failed.join(' and ')} failed the last time`,
    expected: 'ok',
    why: 'Redis refuses writes (MISCONF), or will lose them at a restart',
    fix: [{ how: "Look into Redis' log and make room on its disk, then in redis-cli", text: 'BGREWRITEAOF\nBGSAVE' }],
  })
}
