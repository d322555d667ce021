import { execFile } from 'node:child_process'
import { accessSync, constants, existsSync, readdirSync, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { containerHost, hasDocker } from './containers.js'
import { dependenciesOf, hasApt, unpackDebian } from './debian.js'
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
  const folder = await cached(`redis-${release}-${process.arch}`, async (target) => {
    await unpackDebian(['redis-server', 'redis-tools', 'liblzf1', 'libjemalloc2'], target)
    if ((await missingLibraries(target)).length > 0) {
      await unpackDebian(await dependenciesOf(['redis-server', 'redis-tools']), target)
    }
    const missing = await missingLibraries(target)
    if (missing.length > 0) {
      throw new Error(
        `Expected Debian's redis-server to find its libraries, missing: ${missing.join(', ')}. Install redis-server by hand.`,
      )
    }
  })
  return new LocalHost(join(folder, 'usr/bin'), libraryPath(folder))
}

async function missingLibraries(folder: string): Promise<string[]> {
  const env = { ...process.env, ...libraryPath(folder) }
  const { stdout } = await promisify(execFile)('ldd', [join(folder, 'usr/bin/redis-server')], { env })
  return [...stdout.matchAll(/^\s*(\S+) => not found/gm)].map((match) => match[1]!)
}

function libraryPath(folder: string): Record<string, string> {
  const roots = ['usr/lib', 'lib'].map((name) => join(folder, name)).filter((root) => existsSync(root))
  const folders = roots.flatMap((root) =>
    readdirSync(root)
      .filter((name) => name.endsWith('-linux-gnu') || name.startsWith('arm-linux-gnu'))
      .map((name) => join(root, name)),
  )
  return { LD_LIBRARY_PATH: folders.join(delimiter) }
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
