import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/**
 * Unpacks Debian (or Ubuntu) packages into a folder. Nothing is installed and nothing of the system is changed:
 * where its package lists are empty, as in most images, lists of our own are fetched.
 */
export async function unpackDebian(packages: string[], folder: string): Promise<void> {
  const downloads = join(folder, '.apt', 'downloads')
  mkdirSync(downloads, { recursive: true })
  const apt = new Apt(join(folder, '.apt'))
  try {
    await apt.get(['download', ...packages], downloads).catch(async () => {
      await apt.update()
      await apt.get(['download', ...packages], downloads)
    })
    for (const file of readdirSync(downloads)) await run('dpkg-deb', ['-x', join(downloads, file), folder])
  } finally {
    rmSync(join(folder, '.apt'), { recursive: true, force: true })
  }
}

/** What a package needs, directly or not, but for libc: that must be the one of the running system. */
export async function dependenciesOf(names: string[]): Promise<string[]> {
  const flags = ['--recurse', '--important', '--no-recommends', '--no-suggests']
  const { stdout } = await run('apt-cache', ['depends', ...flags, ...names])
  const found = [...stdout.matchAll(/^([a-z0-9][a-z0-9.+-]*)(:\w+)?$/gm)].map((match) => match[1]!)
  return [...new Set(found)].filter((name) => name.startsWith('lib') && name !== 'libc6')
}

export function hasApt(): boolean {
  return existsSync('/usr/bin/apt-get') && existsSync('/usr/bin/dpkg-deb')
}

class Apt {
  #options: string[] = ['-o', 'APT::Sandbox::User=']

  constructor(private readonly folder: string) {}

  async get(args: string[], cwd: string): Promise<void> {
    await run('apt-get', ['-q', ...this.#options, ...args], { cwd })
  }

  async update(): Promise<void> {
    const lists = join(this.folder, 'lists')
    const cache = join(this.folder, 'cache')
    mkdirSync(join(lists, 'partial'), { recursive: true })
    mkdirSync(join(cache, 'archives', 'partial'), { recursive: true })
    this.#options = [...this.#options, '-o', `Dir::State::lists=${lists}`, '-o', `Dir::Cache=${cache}`]
    await this.get(['update'], this.folder)
  }
}
