import { accessSync, constants, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { containerHost, hasDocker } from './containers.js'
import { hasApt, libraryPath, unpackDebian } from './debian.js'
import { cached } from './folder.js'
import { type Host, LocalHost } from './process.js'

const image = process.env.OUTRIDER_TEST_REDIS_IMAGE || 'redis:7'

/** Where Redis runs: from the PATH, else in Docker, else from Debian's package, unpacked and not installed. */
export async function redisHost(): Promise<Host> {
  if (process.env.OUTRIDER_TEST_SERVICES === 'containers') return containerHost(image)
  const bin = onPath('redis-server')
  if (bin) return new LocalHost(bin)
  if (await hasDocker()) return containerHost(image)
  if (hasApt()) return debianRedis()
  throw new Error(
    'Expected a Redis to test with, found none. Install redis-server (apt install redis-server, brew install redis), ' +
      'or start Docker, or set OUTRIDER_TEST_REDIS_URL to a server that tests may write to.',
  )
}

async function debianRedis(): Promise<Host> {
  const release = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown'
  const folder = await cached(`redis-${release}-${process.arch}`, (target) =>
    unpackDebian(['redis-server', 'redis-tools'], target, 'usr/bin/redis-server'),
  )
  return new LocalHost(join(folder, 'usr/bin'), libraryPath(folder))
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
