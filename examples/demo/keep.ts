import { accessSync, constants } from 'node:fs'
import { delimiter, join, relative } from 'node:path'
import { paint } from '../../src/cli/output.js'
import type { Relays } from './relays.js'
import { MAIN, type Stage } from './stage.js'

/** What is left running, and what to try with it. */
export function describeKept(stage: Stage, relays: Relays): string {
  const { database, redis } = stage
  const event = `select outrider.publish('orders', 'order.placed', json_build_object('total', 99), subject => 'order-42')`
  const [active, standby] = relays.all
  const cli = redisCli(stage)
  return [
    paint('bold', 'Everything is left running until Ctrl-C.'),
    '',
    `Postgres  ${database.url}`,
    `Redis     ${redis.url}`,
    `Relay     http://127.0.0.1:${active?.httpPort}/readyz, /metrics   active, process ${active?.pid}`,
    `          http://127.0.0.1:${standby?.httpPort}/readyz, /metrics   standby, process ${standby?.pid}`,
    '',
    paint('dim', 'Commit an event:'),
    `psql ${database.url} -c "${event}"`,
    ...(isOnPath('psql') ? [] : [paint('dim', '(psql is not installed here: apt install postgresql-client)')]),
    '',
    paint('dim', 'See it in its stream:'),
    `${cli ?? 'redis-cli'} -p ${redis.port} xrevrange orders + - count 1`,
    ...(cli ? [] : [paint('dim', '(redis-cli is not installed here: apt install redis-tools)')]),
    '',
    paint('dim', 'Kill the active relay, and see the standby become active:'),
    `kill -9 ${active?.pid}; sleep 1; curl -s http://127.0.0.1:${standby?.httpPort}/readyz`,
    '',
    paint('dim', 'Any command of Outrider:'),
    `export OUTRIDER_POSTGRES_URL=${database.url} OUTRIDER_REDIS_URL=${redis.url}`,
    `node ${relative(process.cwd(), MAIN)} --help`,
  ].join('\n')
}

/** From the PATH, else the one that was unpacked with the server. */
function redisCli({ redisFolder }: Stage): string | undefined {
  if (isOnPath('redis-cli')) return 'redis-cli'
  if (!redisFolder || !isProgram(join(redisFolder.bin, 'redis-cli'))) return undefined
  const env = Object.entries(redisFolder.env).map(([name, value]) => `${name}=${value} `)
  return `${env.join('')}${join(redisFolder.bin, 'redis-cli')}`
}

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
