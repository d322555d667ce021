import { accessSync, constants } from 'node:fs'
import { delimiter, join, relative } from 'node:path'
import { paint } from '../../src/cli/output.js'
import { MAIN } from '../../testkit/outrider.js'
import { LocalHost } from '../../testkit/services/process.js'
import type { DemoEnv } from './demo-env.js'
import { GROUPS, type GroupName } from './groups.js'
import type { Relays } from './relays.js'
import type { Workers } from './workers.js'

/** What is left running, and what to try with it. */
export function describeKept(env: DemoEnv, relays: Relays, workers: Workers): string {
  const { database, redis } = env
  const [active, standby] = relays.all
  const cli = `${redisCli(env) ?? 'redis-cli'} -p ${redis.port}`
  const outrider = `node ${relative(process.cwd(), MAIN)}`
  const psql = (sql: string) => `psql ${database.url} -c "${sql}"`
  const publish = (data: string, subject: string) =>
    psql(
      `select outrider.publish('github.code', 'com.github.push', json_build_object(${data}), subject => '${subject}')`,
    )
  const processes = (group: GroupName) =>
    workers.all
      .filter((worker) => worker.group === group)
      .map(({ pid }) => pid)
      .join(' and ')
  return [
    paint('bold', 'Everything is left running until Ctrl-C.'),
    '',
    `Postgres  ${database.url}`,
    `Redis     ${redis.url}`,
    `Relay     http://127.0.0.1:${active?.httpPort}/readyz, /metrics   active, process ${active?.pid}`,
    `          http://127.0.0.1:${standby?.httpPort}/readyz, /metrics   standby, process ${standby?.pid}`,
    ...GROUPS.map((group, n) => `${n === 0 ? 'Workers ' : '        '}  ${group}: processes ${processes(group)}`),
    '',
    paint('dim', 'Commit an event:'),
    publish("'ref', 'main'", 'hook-42'),
    ...(isOnPath('psql') ? [] : [paint('dim', '(psql is not installed here: apt install postgresql-client)')]),
    '',
    paint('dim', 'See it in its stream, and what each group did with it:'),
    `${cli} xrevrange github.code + - count 1`,
    ...(redisCli(env) ? [] : [paint('dim', '(redis-cli is not installed here: apt install redis-tools)')]),
    psql("select e.* from effect e join outrider.outbox o on o.id = e.event_id where o.subject = 'hook-42'"),
    '',
    paint('dim', 'Kill the active relay, and see the standby become active; or a worker, and commit another event:'),
    `kill -9 ${active?.pid}; sleep 1; curl -s http://127.0.0.1:${standby?.httpPort}/readyz`,
    `kill -9 ${workers.all[0]?.pid}`,
    '',
    paint('dim', 'Any command of Outrider:'),
    `export OUTRIDER_POSTGRES_URL=${database.url} OUTRIDER_REDIS_URL=${redis.url}`,
    `${outrider} --help`,
    '',
    paint('dim', 'Commit an event that the schema of its type refuses, and see a dead letter of each group:'),
    publish("'sender', 1", 'hook-43'),
    `${outrider} dead-letters`,
  ].join('\n')
}

/** From the PATH, else the one that lies with the server, as a shell takes it. */
function redisCli({ redis: { host } }: DemoEnv): string | undefined {
  if (isOnPath('redis-cli')) return 'redis-cli'
  if (!(host instanceof LocalHost) || !isProgram(join(host.bin, 'redis-cli'))) return undefined
  const env = Object.entries(host.env).map(([name, value]) => `${name}=${quote(value)} `)
  return `${env.join('')}${quote(join(host.bin, 'redis-cli'))}`
}

const quote = (text: string): string => (/^[\w/.:-]*$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`)

const isOnPath = (program: string): boolean =>
  (process.env.PATH ?? '').split(delimiter).some((folder) => isProgram(join(folder, program)))

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
