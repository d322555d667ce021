import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { promisify } from 'node:util'
import { hasApt } from './debian.js'

const run = promisify(execFile)
const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg'

/** Only the installing of packages needs these, and some of their programs are setuid. */
const left = [
  ...['adduser', 'debconf', 'init-system-helpers', 'locales', 'perl'],
  ...['postgresql-common', 'postgresql-client-common', 'ssl-cert'],
]

/**
 * Unpacks packages of other Debian releases than this machine's (the last where it has them, else another), with every library they need down to the C library
 * and its loader, for those of an older release do not serve them. A script takes the place of each program (a path
 * inside) and runs it so. Nothing is installed, and apt's own files stay as they are.
 */
export async function unpackRoot(
  releases: string[],
  packages: string[],
  programs: string[],
  folder: string,
): Promise<void> {
  if (!hasApt()) throw new Error('there is no apt-get to fetch packages of Debian with')
  const workshop = join(folder, '.apt')
  try {
    const mirror = await findMirror()
    for (const file of await download(releases, mirror, packages, workshop)) await run('dpkg-deb', ['-x', file, folder])
    for (const program of programs) {
      const path = join(folder, program)
      renameSync(path, `${path}.program`)
      writeFileSync(path, scriptFor(program, folder), { mode: 0o755 })
    }
    for (const program of programs) await run(join(folder, program), ['--version'])
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

async function download(releases: string[], mirror: string, packages: string[], workshop: string): Promise<string[]> {
  const archives = join(workshop, 'archives')
  for (const path of ['lists', 'archives']) mkdirSync(join(workshop, path, 'partial'), { recursive: true })
  const signed = existsSync(keyring) ? ` signed-by=${keyring}` : ''
  const sources = releases.map((release) => `deb [target=Packages${signed}] ${mirror} ${release} main\n`)
  writeFileSync(join(workshop, 'sources.list'), sources.join(''))
  writeFileSync(join(workshop, 'status'), left.map(asInstalled).join('\n'))
  const settings = {
    'APT::Default-Release': releases.at(-1) ?? '',
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

/** Inside the folder, such as usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2; below lib until Debian 12. */
function findLoader(folder: string): string {
  for (const path of libraryFolders(folder)) {
    const loader = readdirSync(join(folder, path)).find((name) => /^ld(64|-linux[-a-z0-9_]*)\.so\./.test(name))
    if (loader) return `${path}/${loader}`
  }
  throw new Error(`the C library unpacked for ${process.arch} has no loader where Debian keeps it`)
}

function libraryFolders(folder: string): string[] {
  return ['usr/lib', 'lib'].flatMap((root) => {
    const names = existsSync(join(folder, root)) ? readdirSync(join(folder, root)) : []
    return names.filter((name) => /-linux-gnu[a-z0-9]*$/.test(name)).map((name) => `${root}/${name}`)
  })
}

/**
 * It becomes the program, so that signals reach it, and finds the root by its own place, wherever that was moved to.
 * The program is told the script's path as its own: Postgres looks for its other files from there.
 */
function scriptFor(program: string, folder: string): string {
  const libraries = libraryFolders(folder).map((path) => `$root/${path}`)
  return `#!/bin/sh
root=\${0%/*}/${relative(dirname(program), '.')}
exec "$root/${findLoader(folder)}" --argv0 "$0" --library-path "${libraries.join(':')}" "$0.program" "$@"
`
}
