import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { classifyRedis } from './errors.js'

describe('an error of Redis', () => {
  it.each([
    ["OOM command not allowed when used memory > 'maxmemory'.", 'redis_oom'],
    ["READONLY You can't write against a read only replica.", 'redis_readonly'],
    ['Expected a primary of Redis, found the role "slave" (a replica is called "slave").', 'redis_readonly'],
    ['LOADING Redis is loading the dataset in memory', 'redis_loading'],
    ['BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.', 'redis_busy'],
    ['UNKILLABLE Sorry the script already executed write commands against the dataset.', 'redis_busy'],
    [
      'MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist to disk.',
      'redis_misconf',
    ],
    ['NOREPLICAS Not enough good replicas to write.', 'redis_noreplicas'],
    ["MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", 'redis_masterdown'],
    ['CLUSTERDOWN The cluster is down', 'redis_clusterdown'],
    ['TRYAGAIN Multiple keys request during rehashing of slot', 'redis_tryagain'],
    ['MOVED 3999 127.0.0.1:6381', 'redis_moved'],
    ['ASK 3999 127.0.0.1:6381', 'redis_moved'],
    ['NOSCRIPT No matching script. Please use EVAL.', 'redis_noscript'],
    ['UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)', 'redis_failover'],
    ['UNBLOCKED the stream key no longer exists', 'stream_deleted'],
    ["NOPERM User outrider has no permissions to run the 'evalsha' command", 'redis_noperm'],
    ["ERR The user executing the script can't run this command or subcommand", 'redis_noperm'],
    ["ERR ACL failure in script: User outrider has no permissions to run the 'xadd' command", 'redis_noperm'],
    ['NOAUTH Authentication required.', 'redis_credentials'],
    ['WRONGPASS invalid username-password pair or user is disabled.', 'redis_credentials'],
    ['ERR max number of clients reached', 'redis_maxclients'],
    ['Command timed out', 'redis_timeout'],
    ['ERR Protocol error: invalid bulk length', 'redis_bulk_length'],
    ['ERR Script killed by user with SCRIPT KILL... script: 694a5fe, on @user_script:1.', 'redis_script'],
    ["ERR user_script:1: attempt to index local 'x' (a nil value) script: 94b6f4d, on @user_script:1.", 'redis_script'],
  ])('passes, and the batch is tried again: %s', (message, reason) => {
    expect(classifyRedis(message)).toEqual({ policy: 'retry', reason })
    expect(classifyRedis(`-${message}`)).toEqual({ policy: 'retry', reason })
  })

  it.each([
    ['WRONGTYPE Operation against a key holding the wrong kind of value', 'wrong_type'],
    ['ERR The stream has exhausted the last possible ID, unable to add more items', 'stream_exhausted'],
  ])('is permanent for its stream: %s', (message, reason) => {
    expect(classifyRedis(message)).toEqual({ policy: 'stream', reason })
  })

  it('is permanent for its row when the row is too large', () => {
    const known = { policy: 'row', reason: 'too_large_for_redis' }
    expect(classifyRedis('ERR Elements are too large to be stored')).toEqual(known)
  })

  it.each([
    'ERR unknown command `EVALSHA`, with args beginning with:',
    "ERR wrong number of arguments for 'xadd' command",
    'BUSYGROUP Consumer Group name already exists',
    'BUSYKEY Target key name already exists.',
    "CROSSSLOT Keys in request don't hash to the same slot",
    'EXECABORT Transaction discarded because of previous errors.',
    'oom command not allowed',
    'OOMISH',
    'constructor',
    '',
  ])('halts when nobody knows it: %s', (message) => {
    expect(classifyRedis(message)).toEqual({ policy: 'halt', reason: 'redis_unknown' })
  })

  it('halts for every prefix that is not in the table', () => {
    // None of the table's prefixes, nor any word of the client's, begins with a Q.
    fc.assert(
      fc.property(fc.stringMatching(/^Q[A-Z]{0,15}$/), (prefix) => {
        expect(classifyRedis(`${prefix} of a later Redis`).policy).toBe('halt')
      }),
    )
  })
})

describe('what the client says of its connection', () => {
  it.each([
    'Connection is closed.',
    'Command aborted due to connection close',
    'Connection is aborted',
    'Connection is discarded because a new connection is made',
    "Stream isn't writeable and enableOfflineQueue options is false",
    "Cluster isn't ready and enableOfflineQueue options is false",
    'Reached the max retries per request limit (which is 0). Refer to "maxRetriesPerRequest" option for details.',
    'timeout',
    "Socket timeout. Expecting data, but didn't receive any in 5000ms.",
    'Cluster is disconnected.',
    'Cluster is ended.',
    'None of startup nodes is available',
    'Failed to refresh slots cache.',
    'Node is disconnected',
    'Too many Cluster redirections. Last error: Error: MOVED 1 127.0.0.1:7001',
    'All sentinels are unreachable and retry is disabled.',
    'connect ETIMEDOUT',
    'connect ECONNREFUSED 127.0.0.1:6379',
    'read ECONNRESET',
    'write EPIPE',
    'This socket has been ended by the other party',
    'write after end',
    'getaddrinfo ENOTFOUND redis.example.com',
    'getaddrinfo EAI_AGAIN redis.example.com',
    'connect EHOSTUNREACH 10.0.0.1:6379',
    'connect ENETUNREACH 10.0.0.1:6379',
    'self-signed certificate in certificate chain',
    'unable to verify the first certificate',
    "Hostname/IP does not match certificate's altnames: Host: redis. is not in the cert's altnames: DNS:other",
    'Client network socket disconnected before secure TLS connection was established',
    'write EPROTO 00:error:0A00010B:SSL routines:ssl3_get_record:wrong version number',
  ])('means that outcomes are not known, and all is tried again: %s', (message) => {
    expect(classifyRedis(message)).toEqual({ policy: 'retry', reason: 'redis_unreachable' })
  })
})
