/**
 * What an error of Redis means for the relay. One table, pure; every row has a test.
 *
 * retry   passes by itself or once someone has fixed the server: the same batch again, after a pause
 * stream  permanent for this stream: its rows become incidents, everything else continues
 * row     permanent for this row: it becomes an incident, everything else continues
 * halt    no one knows what it means: stop, and show it word for word
 */
export type RedisErrorPolicy = 'retry' | 'stream' | 'row' | 'halt'

export interface RedisErrorClass {
  policy: RedisErrorPolicy
  /** Short and stable: a label of metrics, and what /readyz says. */
  reason: string
}

const BY_PREFIX: Record<string, RedisErrorClass> = {
  OOM: { policy: 'retry', reason: 'redis_oom' },
  READONLY: { policy: 'retry', reason: 'redis_readonly' },
  LOADING: { policy: 'retry', reason: 'redis_loading' },
  BUSY: { policy: 'retry', reason: 'redis_busy' },
  MISCONF: { policy: 'retry', reason: 'redis_misconf' },
  NOREPLICAS: { policy: 'retry', reason: 'redis_noreplicas' },
  MASTERDOWN: { policy: 'retry', reason: 'redis_masterdown' },
  CLUSTERDOWN: { policy: 'retry', reason: 'redis_clusterdown' },
  TRYAGAIN: { policy: 'retry', reason: 'redis_tryagain' },
  MOVED: { policy: 'retry', reason: 'redis_moved' },
  ASK: { policy: 'retry', reason: 'redis_moved' },
  NOSCRIPT: { policy: 'retry', reason: 'redis_noscript' },
  UNKILLABLE: { policy: 'retry', reason: 'redis_busy' },
  NOPERM: { policy: 'retry', reason: 'redis_noperm' },
  NOAUTH: { policy: 'retry', reason: 'redis_credentials' },
  WRONGPASS: { policy: 'retry', reason: 'redis_credentials' },
  WRONGTYPE: { policy: 'stream', reason: 'wrong_type' },
}

const BY_TEXT: [RegExp, RedisErrorClass][] = [
  // A blocked read whose stream was deleted; any other says that the server has become a replica.
  [/^-?UNBLOCKED the stream key no longer exists/, { policy: 'retry', reason: 'stream_deleted' }],
  [/^-?UNBLOCKED\b/, { policy: 'retry', reason: 'redis_failover' }],
  // NOPERM of a command within a script, as Redis up to 7.0 and from 7.2 on says it.
  [/ACL failure in script|the user executing the script can't/i, { policy: 'retry', reason: 'redis_noperm' }],
  // Known before an event is sent, where CONFIG may be read: see bulk-limit.ts.
  [/invalid bulk length/i, { policy: 'retry', reason: 'redis_bulk_length' }],
  [/elements are too large to be stored/i, { policy: 'row', reason: 'too_large_for_redis' }],
  [/exhausted the last possible id/i, { policy: 'stream', reason: 'stream_exhausted' }],
  [/max number of clients reached/i, { policy: 'retry', reason: 'redis_maxclients' }],
  [/user_script:\d+: |script killed by user/i, { policy: 'retry', reason: 'redis_script' }],
  // What ROLE says of a replica: see primary.ts.
  [/expected a primary of redis/i, { policy: 'retry', reason: 'redis_readonly' }],
  [/command timed out/i, { policy: 'retry', reason: 'redis_timeout' }],
  // Everything that ioredis, the socket or TLS says of a connection: the outcome of what was sent is not known.
  [
    /connection (is )?(close|aborted|discarded|in )|isn't writeable|socket (closed|timeout|has been ended)|stream .*ended|write after|node is disconnected|startup nodes|slots cache|ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|connect timeout|timed out|^timeout$|max retries per request|cluster|sentinel|certificate|\bTLS|\bSSL/i,
    { policy: 'retry', reason: 'redis_unreachable' },
  ],
]

/** `message` is an error reply of Redis, or what the client says of its connection. */
export function classifyRedis(message: string): RedisErrorClass {
  const prefix = /^-?([A-Z]+)\b/.exec(message)?.[1]
  if (prefix && Object.hasOwn(BY_PREFIX, prefix)) return BY_PREFIX[prefix] as RedisErrorClass
  for (const [pattern, known] of BY_TEXT) if (pattern.test(message)) return known
  return { policy: 'halt', reason: 'redis_unknown' }
}

/** The same for what was thrown: an OutriderError is worded for people, its cause says what happened. */
export const classifyRedisError = (error: unknown): RedisErrorClass => {
  const { cause, message } = error as Error
  return classifyRedis(cause instanceof Error ? cause.message : message)
}
