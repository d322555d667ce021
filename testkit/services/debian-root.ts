import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { hasApt } from './debian.js'

const run = promisify(execFile)
const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg'

/** Only the installing of packages needs these, and some of their programs are setuid. */
const left = ['adduser', 'debconf', 'init-system-helpers']

/**
 * Unpacks packages of another Debian release than this machine's, with every library they need down to the C library
 * and its loader, for those of an older release do not serve them. `bin` holds a script that runs each program so.
 * Nothing is installed, and apt's own files stay as they are.
 */
export async function unpackRoot(
  release: string,
  packages: string[],
  programs: string[],
  folder: string,
): Promise<void> {
  if (!hasApt()) throw new Error('there is no apt-get to fetch packages of Debian with')
  const workshop = join(folder, '.apt')
  try {
    const mirror = await findMirror()
    for (const file of await download(release, mirror, packages, workshop)) await run('dpkg-deb', ['-x', file, folder])
    const loader = findLoader(folder)
    mkdirSync(join(folder, 'bin'))
    for (const program of programs) {
      const script = join(folder, 'bin', program)
      writeFileSync(script, scriptFor(program, loader), { mode: 0o755 })
      await run(script, ['--version'])
    }
  } finally {
    rmSync(workshop, { recursive: true, force: true })
  }
}

/** Where apt gets this machine's own packages from: asked of apt itself, which knows all formats of its sources. */
async function findMirror(): Promise<string> {
  const system = readFileSync('/etc/os-release', 'utf8')
  const codename = /^VERSION_CODENAME=(.*)$/m.exec(system)?.[1] ?? 'unknown'
  if (!/^ID=debian$/m.test(system)) throw new Error(`its packages run where Debian does, and this is ${codename}`)
  const { stdout } = await run('apt-get', ['update', '--print-uris'])
  const sources = [...stdout.matchAll(/^'(.*)\/dists\/(.*)\/InRelease'/gm)].flatMap(([, uri = '', suite]) =>
    suite === codename || suite === 'stable' || suite === 'oldstable' ? [uri] : [],
  )
  // Others than Debian name their suites by its releases, too.
  const mirror = sources.find((uri) => uri.endsWith('/debian')) ?? sources[0]
  if (mirror) return mirror
  throw new Error(`apt's sources name no mirror of Debian ${codename} to take the release from`)
}

async function download(release: string, mirror: string, packages: string[], workshop: string): Promise<string[]> {
  const archives = join(workshop, 'archives')
  for (const path of ['lists', 'archives']) mkdirSync(join(workshop, path, 'partial'), { recursive: true })
  const signed = existsSync(keyring) ? ` signed-by=${keyring}` : ''
  writeFileSync(join(workshop, 'sources.list'), `deb [target=Packages${signed}] ${mirror} ${release} main\n`)
  writeFileSync(join(workshop, 'status'), left.map(asInstalled).join('\n'))
  const settings = {
    'APT::Sandbox::User': '',
    'APT::Update::Error-Mode': 'any',
    'Acquire::Languages': 'none',
    'Acquire::Retries': '2',
    'Dir::State': workshop,
    'Dir::State::status': join(workshop, 'status'),
    'Dir::State::lists': join(workshop, 'lists'),
    'Dir::Cache': workshop,
    'Dir::Cache::archives': archives,
    'Dir::Etc::sourcelist': join(workshop, 'sources.list'),
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::Etc::preferences': '/dev/null',
    'Dir::Etc::preferencesparts': '/dev/null',
  }
  const config = join(workshop, 'apt.conf')
  const lines = Object.entries(settings).map(([name, value]) => `${name} "${value}";\n`)
  writeFileSync(config, lines.join(''))
  const apt = (...args: string[]) => run('apt-get', ['-q', '-c', config, ...args])
  await apt('update')
  await apt('install', '--download-only', '--yes', '--no-install-recommends', ...packages)
  return readdirSync(archives).flatMap((name) => (name.endsWith('.deb') ? [join(archives, name)] : []))
}

/** An entry of dpkg's status file. */
function asInstalled(name: string): string {
  const fields = [`Package: ${name}`, 'Status: install ok installed', 'Version: 999', 'Architecture: all']
  return `${[...fields, 'Maintainer: nobody', 'Description: not needed to run a program'].join('\n')}\n`
}

/** Inside the folder, such as usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2. */
function findLoader(folder: string): string {
  const libraries = join(folder, 'usr/lib')
  for (const triplet of readdirSync(libraries).filter((name) => /-linux-gnu[a-z0-9]*$/.test(name))) {
    const loader = readdirSync(join(libraries, triplet)).find((name) => /^ld(64|-linux[-a-z0-9_]*)\.so\./.test(name))
    if (loader) return `usr/lib/${triplet}/${loader}`
  }
  throw new Error(`the C library unpacked for ${process.arch} has no loader where Debian keeps it`)
}

/** It becomes the program, so that signals reach it, and finds the root beside itself, wherever that was moved to. */
function scriptFor(program: string, loader: string): string {
  return `#!/bin/sh
root=\${0%/*}/..
exec "$root/${loader}" --library-path "$root/${loader.replace(/\/[^/]*$/, '')}" "$root/usr/bin/${program}" "$@"
`
}
