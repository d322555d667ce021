/** Which environment variable sets which setting. `streams` and `outbox` are for the file alone. */
export const VARIABLES: Readonly<Record<string, string>> = {
  OUTRIDER_POSTGRES_URL: 'postgres.url',
  OUTRIDER_POSTGRES_URL_FILE: 'postgres.urlFile',
  OUTRIDER_POSTGRES_PASSWORD: 'postgres.password',
  OUTRIDER_POSTGRES_PASSWORD_FILE: 'postgres.passwordFile',
  OUTRIDER_POSTGRES_TLS_CA: 'postgres.tls.ca',
  OUTRIDER_POSTGRES_TLS_CERT: 'postgres.tls.cert',
  OUTRIDER_POSTGRES_TLS_KEY: 'postgres.tls.key',
  OUTRIDER_POSTGRES_TLS_SERVER_NAME: 'postgres.tls.serverName',
  OUTRIDER_POSTGRES_CONNECT_TIMEOUT: 'postgres.connectTimeout',
  OUTRIDER_REDIS_URL: 'redis.url',
  OUTRIDER_REDIS_URL_FILE: 'redis.urlFile',
  OUTRIDER_REDIS_USERNAME: 'redis.username',
  OUTRIDER_REDIS_PASSWORD: 'redis.password',
  OUTRIDER_REDIS_PASSWORD_FILE: 'redis.passwordFile',
  OUTRIDER_REDIS_SENTINEL_USERNAME: 'redis.sentinelUsername',
  OUTRIDER_REDIS_SENTINEL_PASSWORD: 'redis.sentinelPassword',
  OUTRIDER_REDIS_SENTINEL_PASSWORD_FILE: 'redis.sentinelPasswordFile',
  OUTRIDER_REDIS_TLS_CA: 'redis.tls.ca',
  OUTRIDER_REDIS_TLS_CERT: 'redis.tls.cert',
  OUTRIDER_REDIS_TLS_KEY: 'redis.tls.key',
  OUTRIDER_REDIS_TLS_SERVER_NAME: 'redis.tls.serverName',
  OUTRIDER_REDIS_CONNECT_TIMEOUT: 'redis.connectTimeout',
  OUTRIDER_SLOT: 'slot',
  OUTRIDER_PUBLICATION: 'publication',
  OUTRIDER_SOURCE: 'source',
  OUTRIDER_DURABILITY: 'durability',
  OUTRIDER_RETENTION: 'retention',
  OUTRIDER_RETENTION_MAX_SIZE: 'retentionMaxSize',
  OUTRIDER_MAX_EVENT_BYTES: 'maxEventBytes',
  OUTRIDER_ON_GAP: 'onGap',
  OUTRIDER_REPAIR_MAX_EVENTS: 'repairMaxEvents',
  OUTRIDER_HTTP_PORT: 'http.port',
  OUTRIDER_HTTP_HOST: 'http.host',
  OUTRIDER_LOG_LEVEL: 'logLevel',
  OUTRIDER_LIMITS_BATCH_EVENTS: 'limits.batchEvents',
  OUTRIDER_LIMITS_BATCH_BYTES: 'limits.batchBytes',
  OUTRIDER_LIMITS_INFLIGHT_BYTES: 'limits.inflightBytes',
  OUTRIDER_DRAIN_TIMEOUT: 'drainTimeout',
}

/** Taken where nothing of Outrider's own is set, in variables or file: other programs use these, too. */
export const FALLBACKS: Readonly<Record<string, string>> = { DATABASE_URL: 'postgres.url', REDIS_URL: 'redis.url' }

/** Two ways to give one thing: only one of them may be used, and a variable replaces either in the file. */
export const ALTERNATIVES: readonly (readonly [string, string])[] = [
  ['postgres.url', 'postgres.urlFile'],
  ['postgres.password', 'postgres.passwordFile'],
  ['redis.url', 'redis.urlFile'],
  ['redis.password', 'redis.passwordFile'],
  ['redis.sentinelPassword', 'redis.sentinelPasswordFile'],
]

/** The variable of a setting, for messages. */
export const variableOf = (path: string): string | undefined =>
  Object.keys(VARIABLES).find((variable) => VARIABLES[variable] === path)

/** Variables that start like Outrider's and are none of its settings. */
export function unknownVariables(env: NodeJS.ProcessEnv): string[] {
  return Object.keys(env).filter(
    (name) =>
      name.startsWith('OUTRIDER_') &&
      !Object.hasOwn(VARIABLES, name) &&
      name !== 'OUTRIDER_CONFIG' &&
      !name.startsWith('OUTRIDER_TEST_') &&
      !isServiceLink(name, env[name] ?? ''),
  )
}

/**
 * Kubernetes describes a Service named `outrider` to every pod beside it as OUTRIDER_SERVICE_HOST, OUTRIDER_PORT=tcp://…
 * https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
 */
const isServiceLink = (name: string, value: string): boolean =>
  /_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$/.test(name) ||
  /_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$/.test(name) ||
  (/_PORT$/.test(name) && /^(tcp|udp|sctp):\/\//.test(value))
