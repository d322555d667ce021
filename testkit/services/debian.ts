import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

export function hasApt(): boolean {
  return existsSync('/usr/bin/apt-get') && existsSync('/usr/bin/dpkg-deb')
}

/**
 * Unpacks packages of Debian or Ubuntu into a folder, with those libraries that `program` (a path inside) needs and
 * the system lacks. Nothing is installed and nothing of the system changes: where its package lists are empty, as in
 * most images, our own are fetched and thrown away.
 */
export async function unpackDebian(packages: string[], folder: string, program?: string): Promise<void> {
  const workshop = join(folder, '.apt')
  mkdirSync(workshop)
  const apt = new Apt(workshop)
  try {
    await apt.unpack(packages, folder).catch(async () => {
      await apt.fetchLists()
      await apt.unpack(packages, folder)
    })
    if (program) await addLibraries(apt, join(folder, program), folder)
  } finally {
    rmSync(workshop, { recursive: true, force: true })
  }
}

/** The environment in which programs find the libraries unpacked into a folder. */
export function libraryPath(folder: string): Record<string, string> {
  const roots = ['usr/lib', 'lib'].map((name) => join(folder, name)).filter((root) => existsSync(root))
  const folders = roots.flatMap((root) => readdirSync(root).map((name) => join(root, name)))
  return { LD_LIBRARY_PATH: folders.filter((path) => /-linux-gnu[a-z0-9]*$/.test(path)).join(':') }
}

async function addLibraries(apt: Apt, program: string, folder: string): Promise<void> {
  const tried = new Set<string>()
  for (;;) {
    const env = { ...process.env, ...libraryPath(folder) }
    const { stdout } = await run('ldd', [program], { env })
    const missing = [...stdout.matchAll(/^\s*(\S+) => not found/gm)].map((match) => match[1]!)
    if (missing.length === 0) return
    for (const library of missing) {
      if (tried.has(library)) throw new Error(`Expected a package with ${library}, which ${program} needs, found none`)
      tried.add(library)
      const name = packageOf(library)
      await apt.unpack([name], folder).catch(() => apt.unpack([`${name}t64`], folder))
    }
  }
}

/** Debian's rule (policy 8.1): liblzf.so.1 is in liblzf1, liblz4.so.1 in liblz4-1; t64 ends some names since 2024. */
function packageOf(library: string): string {
  const [stem = library, version = ''] = library.toLowerCase().replaceAll('_', '-').split('.so.')
  if (stem === 'libcrypto') return `libssl${version}`
  return /\d$/.test(stem) ? `${stem}-${version}` : `${stem}${version}`
}

class Apt {
  readonly #workshop: string
  #options = ['-q', '-o', 'APT::Sandbox::User=']

  constructor(workshop: string) {
    this.#workshop = workshop
  }

  async unpack(packages: string[], folder: string): Promise<void> {
    const downloads = join(this.#workshop, 'downloads')
    mkdirSync(downloads, { recursive: true })
    await run('apt-get', [...this.#options, 'download', ...packages], { cwd: downloads })
    for (const file of readdirSync(downloads)) await run('dpkg-deb', ['-x', join(downloads, file), folder])
    rmSync(downloads, { recursive: true })
  }

  async fetchLists(): Promise<void> {
    const lists = join(this.#workshop, 'lists')
    const cache = join(this.#workshop, 'cache')
    mkdirSync(join(lists, 'partial'), { recursive: true })
    mkdirSync(join(cache, 'archives', 'partial'), { recursive: true })
    this.#options.push('-o', `Dir::State::lists=${lists}`, '-o', `Dir::Cache=${cache}`)
    await run('apt-get', [...this.#options, 'update'])
  }
}
