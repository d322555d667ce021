/**
 * `synchronous_standby_names`: a list, `N (list)`, `FIRST N (list)` or `ANY N (list)`; names compare without regard to
 * case, and `*` is any name, quoted or not. https://www.postgresql.org/docs/current/runtime-config-replication.html
 */
export interface StandbyNames {
  /** What stands before the parenthesis; empty for a plain list. */
  method: string
  names: string[]
}

const TOKEN = /"((?:[^"]|"")*)"|([(),])|([^\s(),"]+)/g

export function parseStandbyNames(setting: string): StandbyNames {
  const method = /^\s*((?:(?:FIRST|ANY)\s+)?\d+)\s*\(/i.exec(setting)
  const list = method ? setting.slice(method[0].length) : setting
  const names: string[] = []
  for (const [, quoted, , plain] of list.matchAll(TOKEN)) {
    const name = quoted?.replaceAll('""', '"') ?? plain
    if (name !== undefined) names.push(name)
  }
  return { method: method?.[1] ?? '', names }
}

/** Would a walsender of this `application_name` be waited for? */
export const matchesStandby = ({ names }: StandbyNames, applicationName: string): boolean =>
  names.some((name) => matches(name, applicationName))

/**
 * The setting without what matches `applicationName`: the names left, else those of the standbys that are connected,
 * else nothing.
 */
export function withoutStandby({ method, names }: StandbyNames, applicationName: string, standbys: string[]): string {
  const left = names.filter((name) => !matches(name, applicationName))
  const list = left.length > 0 ? left : names.includes('*') ? standbys : []
  if (list.length === 0) return ''
  const written = list.map((name) => (/^[a-z_][a-z0-9_]*$/i.test(name) ? name : `"${name.replaceAll('"', '""')}"`))
  return method === '' ? written.join(', ') : `${method} (${written.join(', ')})`
}

const matches = (name: string, applicationName: string): boolean =>
  name === '*' || name.toLowerCase() === applicationName.toLowerCase()
