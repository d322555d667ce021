import { execFileSync } from 'node:child_process'
import { accessSync, constants, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { containerHost, hasDocker } from './containers.js'
import { hasApt, libraryPath, unpackDebian } from './debian.js'
import { unpackRoot } from './debian-root.js'
import { cached } from './folder.js'
import { type Host, LocalHost } from './process.js'

const images = { 7: 'redis:7.0', 8: 'redis:8', valkey: 'valkey/valkey:8.1' } as const

/** The release of Debian that has Redis 8.0 and Valkey 8.1. */
const release = 'trixie'

/** 7: without WAITAOF, or else whatever the PATH has. 8: Redis 7.2 or later, with WAITAOF. valkey: Valkey, likewise. */
export type RedisVersion = 7 | 8 | 'valkey'

/** OUTRIDER_TEST_REDIS, or 7. */
export function chosenRedis(): RedisVersion {
  const given = process.env.OUTRIDER_TEST_REDIS || '7'
  if (given === 'valkey') return given
  if (given === '7' || given === '8') return given === '7' ? 7 : 8
  throw new Error(`Expected OUTRIDER_TEST_REDIS to be one of ${Object.keys(images).join(', ')}, found "${given}"`)
}

export function serverProgram(version: RedisVersion): string {
  return version === 'valkey' ? 'valkey-server' : 'redis-server'
}

/** Where this version runs: from the PATH, else in Docker or from Debian's packages, unpacked and not installed. */
export async function redisHost(version = chosenRedis()): Promise<Host> {
  if (process.env.OUTRIDER_TEST_SERVICES === 'containers') return containerHost(imageOf(version))
  const bin = onPath(serverProgram(version))
  if (bin && (version !== 8 || hasWaitAof(bin))) return new LocalHost(bin)
  return version === 7 ? usualRedis() : laterRedis(version)
}

async function usualRedis(): Promise<Host> {
  if (await hasDocker()) return containerHost(imageOf(7))
  if (hasApt()) return debianRedis()
  throw new Error(
    'Expected a Redis to test with, found none. Install redis-server (apt install redis-server, brew install redis), ' +
      'or start Docker, or set OUTRIDER_TEST_REDIS_URL to a server that tests may write to.',
  )
}

async function debianRedis(): Promise<Host> {
  const codename = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown'
  const folder = await cached(`redis-${codename}-${process.arch}`, (target) =>
    unpackDebian(['redis-server', 'redis-tools'], target, 'usr/bin/redis-server'),
  )
  return new LocalHost(join(folder, 'usr/bin'), libraryPath(folder))
}

/** One root serves both, since most of it is the libraries. Docker comes second: a machine may run it without images. */
async function laterRedis(version: 8 | 'valkey'): Promise<Host> {
  const programs = ['redis-server', 'valkey-server']
  try {
    const folder = await cached(`debian-${release}-${process.arch}`, (target) =>
      unpackRoot(release, programs, programs, target),
    )
    return new LocalHost(join(folder, 'bin'))
  } catch (cause) {
    if (await hasDocker()) return containerHost(imageOf(version))
    const name = version === 8 ? 'Redis 7.2 or later' : 'Valkey'
    throw new Error(
      `Expected ${name} on the PATH, in Docker or from Debian ${release}, found none. Install its ` +
        `${serverProgram(version)}, or start Docker. Debian's packages cannot be had: ${(cause as Error).message}`,
      { cause },
    )
  }
}

/** OUTRIDER_TEST_REDIS_IMAGE replaces that of the version which the run has chosen. */
function imageOf(version: RedisVersion): string {
  return (version === chosenRedis() && process.env.OUTRIDER_TEST_REDIS_IMAGE) || images[version]
}

/** WAITAOF came with Redis 7.2. Where Valkey takes the name redis-server, that is no Redis 8. */
function hasWaitAof(bin: string): boolean {
  const found = execFileSync(join(bin, 'redis-server'), ['--version'], { encoding: 'utf8' })
  const [major = 0, minor = 0] = (/^Redis server v=(\d+)\.(\d+)/.exec(found) ?? []).slice(1).map(Number)
  return major > 7 || (major === 7 && minor >= 2)
}

function onPath(program: string): string | undefined {
  return (process.env.PATH ?? '').split(delimiter).find((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK)
      return folder !== ''
    } catch {
      return false
    }
  })
}
