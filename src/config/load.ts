import type { z } from 'zod'
import type { Secret } from '../base/secret.js'
import { type Conflict, findConflicts } from './conflicts.js'
import { parsePostgresUrl } from './postgres-url.js'
import { type Problem, refuse, shown } from './problem.js'
import { type Config, type PostgresConfig, type RedisConfig, type Settings, settings } from './schema.js'
import { get, readSource, type Source } from './source.js'
import { closest } from './suggestion.js'
import { unknownVariables, VARIABLES, variableOf } from './variables.js'

/**
 * Reads the configuration: defaults, over them the file, over it the variables. DATABASE_URL and REDIS_URL count only
 * where nothing of Outrider's own is set; a variable that is empty counts as not set. Throws one OutriderError (exit code 2)
 * that names everything that is wrong. A server that is `unused` need not be given; its URL then leads nowhere.
 */
export function loadConfig(options: { file?: string; env: NodeJS.ProcessEnv; unused?: readonly Server[] }): Config {
  const source = readSource(options.file ?? (options.env.OUTRIDER_CONFIG || undefined), options.env)
  for (const server of options.unused ?? []) supplyUrl(source, server)
  const problems = [...source.problems, ...unknownVariables(options.env).map(unknownVariable)]
  const result = settings.safeParse(source.tree)
  if (!result.success) problems.push(...result.error.issues.flatMap((issue) => problemsOf(issue, source)))
  else
    problems.push(
      ...findConflicts(result.data, (path) => get(source.tree, path) !== undefined).map((conflict) =>
        conflictProblem(conflict, source),
      ),
    )
  if (problems.length > 0 || !result.success) throw refuse(problems)
  return toConfig(result.data, source)
}

/** A server that a command may do without. */
export type Server = 'postgres' | 'redis'

const NOWHERE: Record<Server, string> = { postgres: 'postgres://unused/unused', redis: 'redis://unused' }

/** Was no URL of a server given that the command may do without? */
export const leadsNowhere = (server: Server, url: string): boolean => url === NOWHERE[server]

/** What is given is checked all the same. */
function supplyUrl({ tree }: Source, server: Server): void {
  const given: unknown = tree[server] ?? {}
  if (typeof given !== 'object' || given === null || Array.isArray(given) || 'url' in given) return
  tree[server] = { ...given, url: NOWHERE[server] }
}

function unknownVariable(name: string): Problem {
  const meant = closest(name, Object.keys(VARIABLES))
  return {
    name,
    expected: meant ? `a known variable, perhaps ${meant}` : 'a known variable',
    found: 'one that sets nothing',
  }
}

function problemsOf(issue: z.core.$ZodIssue, source: Source): Problem[] {
  const path = issue.path.join('.')
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => {
      const meant = closest(key, KEYS)
      const full = path === '' ? key : `${path}.${key}`
      return {
        name: nameOf(full, source),
        expected: meant ? `a known setting, perhaps ${meant}` : 'a known setting',
        found: 'an unknown one',
      }
    })
  }
  const value = get(source.tree, path)
  const expected = issue.code === 'invalid_type' ? 'a mapping with settings of its own' : issue.message
  return [{ name: nameOf(path, source), expected, found: shown(path, value) }]
}

const conflictProblem = ({ path, expected, found }: Conflict, source: Source): Problem => ({
  name: nameOf(path, source),
  expected,
  found,
})

/** The variable that set it; else its path in the file; for what is missing both, because either may be used. */
function nameOf(path: string, source: Source): string {
  const given = source.variables.get(path) ?? [...source.variables].find(([set]) => set.startsWith(`${path}.`))?.[1]
  if (given !== undefined) return given
  if (source.file !== undefined && get(source.tree, path) !== undefined) return `${path} in ${source.file}`
  const variable = variableOf(path)
  return variable === undefined ? path : `${path} (${variable})`
}

/** Every key that a file may hold, for what was probably meant by one that it may not. */
const KEYS = new Set([
  ...Object.values(VARIABLES).flatMap((path) => path.split('.')),
  ...[
    'streams',
    'partitions',
    'retention',
    'maxFinished',
    'maxLength',
    'trimAtMemory',
    'deadLetterRetention',
    'groups',
    'outbox',
    'table',
    'stream',
    'columns',
    'id',
    'type',
    'subject',
  ],
  ...['data', 'schemaVersion', 'correlationId', 'causationId', 'headers', 'time'],
])

function toConfig(given: Settings, source: Source): Config {
  const { postgres, redis, slot, source: eventSource, streams, ...rest } = given
  const { database } = parsePostgresUrl(postgres.url)
  return {
    ...rest,
    outbox: compact(rest.outbox) as Config['outbox'],
    streams: compact(streams) as Config['streams'],
    isRetentionSet: RETENTION.some((path) => get(source.tree, path) !== undefined),
    source: eventSource,
    slot: slot ?? defaultSlot(database),
    postgres: compact({
      url: withoutPassword(postgres.url),
      password: secretOf(postgres, 'postgres.url', source),
      tls: postgres.tls,
      connectTimeout: postgres.connectTimeout,
    }) as PostgresConfig,
    redis: compact({
      url: withoutPassword(redis.url),
      username: redis.username,
      password: secretOf(redis, 'redis.url', source),
      sentinelUsername: redis.sentinelUsername,
      sentinelPassword: fileOrValue(redis.sentinelPassword, redis.sentinelPasswordFile),
      tls: redis.tls,
      connectTimeout: redis.connectTimeout,
    }) as RedisConfig,
  }
}

/** Settings that ask for retention. */
const RETENTION = ['retention', 'retentionMaxSize']

const defaultSlot = (database: string): string =>
  `outrider_${database.toLowerCase().replace(/[^a-z0-9_]/g, '_')}`.slice(0, 63)

function secretOf(
  given: { url: string; password?: string | undefined; passwordFile?: string | undefined },
  path: string,
  source: Source,
): Secret | undefined {
  const own = fileOrValue(given.password, given.passwordFile)
  if (own !== undefined) return own
  const url = new URL(given.url)
  const inUrl = url.password || url.searchParams.get('password')
  if (!inUrl) return undefined
  const file = source.urlFiles.get(path)
  return file === undefined ? { value: decodeURIComponent(inUrl) } : { file, part: 'url' }
}

function fileOrValue(value: string | undefined, file: string | undefined): Secret | undefined {
  if (file !== undefined) return { file }
  return value === undefined ? undefined : { value }
}

/** The URL as it may be kept and shown: the password lives in a Secret of its own. */
function withoutPassword(text: string): string {
  const url = new URL(text)
  url.password = ''
  // Only where it is there: touching the parameters writes all of them again.
  if (url.searchParams.has('password')) url.searchParams.delete('password')
  return url.href
}

/** Without keys that are undefined, all the way down: what is not set is not there. */
function compact(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, inner]) => (inner === undefined ? [] : [[key, compact(inner)]])),
  )
}
