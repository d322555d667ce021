import { accessSync, constants } from 'node:fs'
import { STREAM_NAME } from '../event/names.js'
import { parsePostgresUrl } from './postgres-url.js'
import { parseRedisUrl } from './redis-url.js'
import { OWN_OUTBOX, type Settings } from './schema.js'
import { EVERY_STREAM } from './trimming.js'

/** Settings that are right each by itself, and wrong together. `path` is the one to change. */
export interface Conflict {
  path: string
  expected: string
  found: string
}

/** `isGiven`: by variable or file, rather than by default. */
export function findConflicts(settings: Settings, isGiven: (path: string) => boolean): Conflict[] {
  const conflicts: Conflict[] = []
  const refuse = (path: string, expected: string, found: string) => conflicts.push({ path, expected, found })
  postgresConflicts(settings, refuse)
  redisConflicts(settings, refuse)
  limitConflicts(settings, refuse)
  retentionConflicts(settings, isGiven, refuse)
  for (const [path, file] of filesOf(settings)) {
    if (file === undefined) continue
    const code = unreadable(file)
    if (code !== undefined) refuse(path, 'the path of a readable file', code)
  }
  streamConflicts(settings, refuse)
  return conflicts
}

type Refuse = (path: string, expected: string, found: string) => void

function postgresConflicts({ postgres }: Settings, refuse: Refuse): void {
  const url = parsePostgresUrl(postgres.url)
  twoPasswords('postgres', url.password, postgres, refuse)
  certAndKey('postgres', postgres.tls, refuse)
  if (postgres.tls && !url.tls && url.sslMode === 'disable') {
    refuse('postgres.tls', 'no TLS settings while the URL says sslmode=disable', 'TLS settings')
  }
  for (const [key, parameter] of [
    ['ca', 'sslRootCert'],
    ['cert', 'sslCert'],
    ['key', 'sslKey'],
  ] as const) {
    if (postgres.tls?.[key] === undefined || url[parameter] === undefined) continue
    refuse(`postgres.tls.${key}`, `it here or as ${parameter.toLowerCase()} in the URL, not both`, 'both')
  }
}

function redisConflicts({ redis }: Settings, refuse: Refuse): void {
  const url = parseRedisUrl(redis.url)
  twoPasswords('redis', url.password, redis, refuse)
  certAndKey('redis', redis.tls, refuse)
  if (redis.username !== undefined && url.username !== undefined) {
    refuse('redis.username', 'the user name here or in the URL, not both', 'both')
  }
  if (redis.tls && !url.tls)
    refuse('redis.tls', 'a URL with rediss:// where there are TLS settings', 'a URL without TLS')
  if (url.mode === 'sentinel') return
  for (const key of ['sentinelUsername', 'sentinelPassword', 'sentinelPasswordFile'] as const) {
    if (redis[key] !== undefined) refuse(`redis.${key}`, 'it only with a URL of redis+sentinel://', 'another URL')
  }
}

function twoPasswords(
  section: 'postgres' | 'redis',
  inUrl: string | undefined,
  settings: { password?: unknown; passwordFile?: unknown },
  refuse: Refuse,
): void {
  if (inUrl === undefined) return
  for (const key of ['password', 'passwordFile'] as const) {
    if (settings[key] !== undefined) refuse(`${section}.${key}`, 'the password here or in the URL, not both', 'both')
  }
}

function certAndKey(section: 'postgres' | 'redis', tls: Settings['postgres']['tls'], refuse: Refuse): void {
  if (tls?.cert !== undefined && tls.key === undefined)
    refuse(`${section}.tls.key`, 'the key of the certificate', 'no key')
  if (tls?.key !== undefined && tls.cert === undefined)
    refuse(`${section}.tls.cert`, 'the certificate of the key', 'no certificate')
}

function streamConflicts({ streams }: Settings, refuse: Refuse): void {
  for (const [name, { partitions }] of Object.entries(streams)) {
    const path = `streams.${name}`
    if (name === EVERY_STREAM) {
      if (partitions !== undefined) {
        refuse(`${path}.partitions`, 'a number of partitions of one stream, by its name', 'one of every stream')
      }
    } else if (!STREAM_NAME.test(name)) {
      refuse(path, `a stream name that matches ${STREAM_NAME.source}`, JSON.stringify(name))
    }
    const { retention, maxFinished, maxLength, trimAtMemory, groups } = { ...streams[EVERY_STREAM], ...streams[name] }
    if (maxFinished !== undefined && maxLength !== undefined && maxFinished >= maxLength) {
      refuse(`${path}.maxFinished`, `fewer entries than maxLength (${maxLength})`, String(maxFinished))
    }
    if (retention === 0 && maxFinished === undefined && !trimAtMemory && groups !== undefined) {
      const found = 'a retention of 0, and neither maxFinished nor trimAtMemory'
      refuse(`${path}.groups`, 'groups only of a stream that is trimmed', found)
    }
  }
}

function limitConflicts({ limits, maxEventBytes }: Settings, refuse: Refuse): void {
  const room = `at most limits.inflightBytes (${limits.inflightBytes})`
  if (limits.batchBytes > limits.inflightBytes) refuse('limits.batchBytes', room, String(limits.batchBytes))
  if (maxEventBytes > limits.inflightBytes) refuse('maxEventBytes', room, String(maxEventBytes))
}

/** A setting that has no effect is refused. */
function retentionConflicts({ outbox, retention }: Settings, isGiven: (path: string) => boolean, refuse: Refuse): void {
  if (outbox.table !== OWN_OUTBOX.table) {
    for (const path of ['retention', 'retentionMaxSize']) {
      if (isGiven(path)) refuse(path, `it only with ${OWN_OUTBOX.table}: a table of your own is never emptied`, 'both')
    }
  } else if (retention === 0 && isGiven('retentionMaxSize')) {
    refuse('retentionMaxSize', 'it only with a retention above 0', 'retention: 0')
  }
}

const filesOf = ({ postgres, redis }: Settings): [string, string | undefined][] => [
  ['postgres.passwordFile', postgres.passwordFile],
  ['redis.passwordFile', redis.passwordFile],
  ['redis.sentinelPasswordFile', redis.sentinelPasswordFile],
  ...(['ca', 'cert', 'key'] as const).flatMap((key): [string, string | undefined][] => [
    [`postgres.tls.${key}`, postgres.tls?.[key]],
    [`redis.tls.${key}`, redis.tls?.[key]],
  ]),
]

/** Looked at when the program starts, although each is read later: a wrong path should not wait for the first connection. */
function unreadable(file: string): string | undefined {
  try {
    accessSync(file, constants.R_OK)
    return undefined
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'an unreadable one'
  }
}
