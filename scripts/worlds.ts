import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isOpenToAll, serviceAccount } from '../testkit/services/account.js'
import { scratch } from '../testkit/services/folder.js'
import { postgresHost } from '../testkit/services/postgres-binaries.js'
import { LocalHost } from '../testkit/services/process.js'
import { redisHost } from '../testkit/services/redis-binaries.js'

/**
 * The demo, an example and a few tests, in each world that a user may have: with Redis and Postgres on the PATH, with
 * one of them, with neither, as root and as an ordinary user, from folders with a space in their names. Then a smoke of
 * relay and consumer on the oldest and the newest servers. Runs what is built.
 */

const PROJECT = fileURLToPath(new URL('..', import.meta.url))
const SERVERS = ['redis-server', 'valkey-server', 'postgres', 'initdb']
const COMMANDS = {
  demo: ['--import', 'tsx', 'examples/demo/main.ts', '--events', '500', '--kills', '1', '--worker-kills', '1'],
  example: ['--import', 'tsx', 'examples/run.ts', 'publication'],
  tests: [
    'node_modules/vitest/vitest.mjs',
    'run',
    // The default writes the configuration to node_modules, which is not the ordinary user's here.
    '--configLoader=runner',
    '-t',
    'SIGKILL',
    ...['redis', 'postgres'].map((name) => `test/support/${name}.test.ts`),
  ],
  smoke: ['node_modules/vitest/vitest.mjs', 'run', 'test/relay/smoke.test.ts'],
}

interface World {
  name: string
  /** Folders in front of a PATH without servers. */
  path: string[]
  commands: (keyof typeof COMMANDS)[]
  env?: Record<string, string>
  account?: { uid: number; gid: number }
}

/** The PATH of this machine, and for each of its folders that has a server one with links to all else. */
function pathWithoutServers(): string {
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder && existsSync(folder))
  const clean = folders.map((folder) => {
    if (!SERVERS.some((program) => existsSync(join(folder, program)))) return folder
    const links = scratch('path')
    for (const name of readdirSync(folder)) {
      if (!SERVERS.includes(name)) symlinkSync(join(folder, name), join(links, name))
    }
    return links
  })
  return clean.join(delimiter)
}

/** A folder of these programs, as an installation makes one. */
function installed(host: LocalHost, programs: string[]): string {
  const folder = join(scratch('installed'), 'a folder')
  mkdirSync(folder)
  const env = Object.entries(host.env).map(([name, value]) => `export ${name}='${value}'\n`)
  for (const program of programs) {
    const file = join(folder, program)
    writeFileSync(file, `#!/bin/sh\n${env.join('')}exec '${join(host.bin, program)}' "$@"\n`, { mode: 0o755 })
  }
  return folder
}

async function localServers(): Promise<{ redis: string; postgres: string }> {
  const [redis, postgres] = [await redisHost('7.0'), await postgresHost(18)]
  if (!(redis instanceof LocalHost && postgres instanceof LocalHost)) {
    throw new Error('Expected servers to put on the PATH, found containers. Unset OUTRIDER_TEST_SERVICES.')
  }
  return { redis: installed(redis, ['redis-server']), postgres: installed(postgres, ['postgres', 'initdb']) }
}

async function worlds(): Promise<World[]> {
  const { redis, postgres } = await localServers()
  const spaced = join(scratch('spaced'), 'a folder')
  mkdirSync(spaced)
  chmodSync(spaced, 0o755)
  const list: World[] = [
    { name: 'no server on the PATH', path: [], commands: ['demo', 'tests'] },
    { name: 'Redis on the PATH', path: [redis], commands: ['demo', 'example', 'tests'] },
    { name: 'Postgres on the PATH', path: [postgres], commands: ['demo'] },
    { name: 'Redis and Postgres on the PATH', path: [redis, postgres], commands: ['demo'] },
    {
      name: 'temporary folder and cache with a space',
      path: [],
      commands: ['demo'],
      env: { TMPDIR: spaced, OUTRIDER_TEST_CACHE: join(spaced, 'cache') },
    },
  ]
  list.push(
    smoke({ OUTRIDER_TEST_POSTGRES: '15', OUTRIDER_TEST_REDIS: '8.10' }),
    smoke({ OUTRIDER_TEST_POSTGRES: '18', OUTRIDER_TEST_REDIS: 'valkey-9.1' }),
  )
  const account = serviceAccount()
  if (!account) return list
  if (!isOpenToAll(PROJECT)) {
    console.log(`skipped: an ordinary user cannot read ${PROJECT}`)
    return list
  }
  const home = scratch('home')
  chownSync(home, account.uid, account.gid)
  return [
    ...list,
    {
      name: 'an ordinary user, Redis on the PATH',
      path: [redis],
      commands: ['demo', 'tests'],
      env: { HOME: home, XDG_CACHE_HOME: join(home, 'cache') },
      account,
    },
  ]
}

function smoke(env: Record<string, string>): World {
  return {
    name: `PostgreSQL ${env.OUTRIDER_TEST_POSTGRES} and Redis ${env.OUTRIDER_TEST_REDIS}`,
    path: [],
    commands: ['smoke'],
    env,
  }
}

async function run({ name, path, commands, env, account }: World, clean: string): Promise<boolean> {
  let passed = true
  for (const command of commands) {
    const began = performance.now()
    const child = spawn(process.execPath, COMMANDS[command], {
      cwd: PROJECT,
      env: { ...process.env, ...env, PATH: [...path, clean].join(delimiter) },
      stdio: ['ignore', 'pipe', 'pipe'],
      ...account,
    })
    let output = ''
    child.stdout.on('data', (chunk) => (output += chunk))
    child.stderr.on('data', (chunk) => (output += chunk))
    const [code] = await once(child, 'close')
    passed &&= code === 0
    const seconds = ((performance.now() - began) / 1000).toFixed(1)
    console.log(`${code === 0 ? '✔' : '✘'} ${name}: ${command} (${seconds} s)${code === 0 ? '' : `\n${output}`}`)
  }
  return passed
}

const clean = pathWithoutServers()
let failed = 0
for (const world of await worlds()) {
  if (!(await run(world, clean))) failed += 1
}
process.exit(failed === 0 ? 0 : 1)
