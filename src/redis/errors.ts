/**
 * What an error of Redis means for the relay. One table, pure; every row has a test.
 *
 * retry   passes by itself or once somebody has mended the server: the same batch again, after a pause
 * stream  permanent for this stream: its rows become incidents, everything else goes on
 * row     permanent for this row: it becomes an incident, everything else goes on
 * halt    nobody knows what it means: stop, and show it word for word
 */
export type RedisFate = 'retry' | 'stream' | 'row' | 'halt'

export interface RedisVerdict {
  fate: RedisFate
  /** Short and stable: a label of metrics, and what /readyz says. */
  reason: string
}

const BY_PREFIX: Record<string, RedisVerdict> = {
  OOM: { fate: 'retry', reason: 'redis_oom' },
  READONLY: { fate: 'retry', reason: 'redis_readonly' },
  LOADING: { fate: 'retry', reason: 'redis_loading' },
  BUSY: { fate: 'retry', reason: 'redis_busy' },
  MISCONF: { fate: 'retry', reason: 'redis_misconf' },
  NOREPLICAS: { fate: 'retry', reason: 'redis_noreplicas' },
  MASTERDOWN: { fate: 'retry', reason: 'redis_masterdown' },
  CLUSTERDOWN: { fate: 'retry', reason: 'redis_clusterdown' },
  TRYAGAIN: { fate: 'retry', reason: 'redis_tryagain' },
  MOVED: { fate: 'retry', reason: 'redis_moved' },
  ASK: { fate: 'retry', reason: 'redis_moved' },
  NOSCRIPT: { fate: 'retry', reason: 'redis_noscript' },
  UNKILLABLE: { fate: 'retry', reason: 'redis_busy' },
  NOPERM: { fate: 'retry', reason: 'redis_noperm' },
  NOAUTH: { fate: 'retry', reason: 'redis_credentials' },
  WRONGPASS: { fate: 'retry', reason: 'redis_credentials' },
  WRONGTYPE: { fate: 'stream', reason: 'wrong_type' },
}

const BY_TEXT: [RegExp, RedisVerdict][] = [
  // A blocked read whose stream was deleted; any other says that the server has become a replica.
  [/^-?UNBLOCKED the stream key no longer exists/, { fate: 'retry', reason: 'stream_deleted' }],
  [/^-?UNBLOCKED\b/, { fate: 'retry', reason: 'redis_failover' }],
  // NOPERM of a command within a script, as Redis up to 7.0 and from 7.2 on says it.
  [/ACL failure in script|the user executing the script can't/i, { fate: 'retry', reason: 'redis_noperm' }],
  // Known before an event is sent, where CONFIG may be read: see bulk-limit.ts.
  [/invalid bulk length/i, { fate: 'retry', reason: 'redis_bulk_length' }],
  [/elements are too large to be stored/i, { fate: 'row', reason: 'too_large_for_redis' }],
  [/exhausted the last possible id/i, { fate: 'stream', reason: 'stream_exhausted' }],
  [/max number of clients reached/i, { fate: 'retry', reason: 'redis_maxclients' }],
  [/user_script:\d+: |script killed by user/i, { fate: 'retry', reason: 'redis_script' }],
  // What ROLE says of a replica: see primary.ts.
  [/expected a primary of redis/i, { fate: 'retry', reason: 'redis_readonly' }],
  [/command timed out/i, { fate: 'retry', reason: 'redis_timeout' }],
  // Everything that ioredis, the socket or TLS says of a connection: the outcome of what was sent is not known.
  [
    /connection (is )?(close|aborted|discarded|in )|isn't writeable|socket (closed|timeout|has been ended)|stream .*ended|write after|node is disconnected|startup nodes|slots cache|ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|connect timeout|timed out|^timeout$|max retries per request|cluster|sentinel|certificate|\bTLS|\bSSL/i,
    { fate: 'retry', reason: 'redis_unreachable' },
  ],
]

/** `message` is an error reply of Redis, or what the client says of its connection. */
export function classifyRedis(message: string): RedisVerdict {
  const prefix = /^-?([A-Z]+)\b/.exec(message)?.[1]
  if (prefix && Object.hasOwn(BY_PREFIX, prefix)) return BY_PREFIX[prefix] as RedisVerdict
  for (const [pattern, verdict] of BY_TEXT) if (pattern.test(message)) return verdict
  return { fate: 'halt', reason: 'redis_unknown' }
}

/** The same for what was thrown: a Failure is worded for people, its cause says what happened. */
export const classifyRedisError = (error: unknown): RedisVerdict => {
  const { cause, message } = error as Error
  return classifyRedis(cause instanceof Error ? cause.message : message)
}
