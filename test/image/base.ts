import { execFile } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { unpackRoot } from '../../testkit/services/debian-root.js'
import { cached, runFolder } from '../../testkit/services/folder.js'
import type { Engine } from '../support/engine.js'

const run = promisify(execFile)
const release = 'trixie'

/** What a slim image has of Debian, as far as Node, npm and the build's own commands need it; tini spares the build apt. */
const slim = ['coreutils', 'dash', 'findutils', 'grep', 'libatomic1', 'libstdc++6', 'sed', 'tini']

/** Node and npm as the packages of npm's registry that carry them; the major is that of the Dockerfile. */
const node = `node-linux-${process.arch}`
const packages = [`${node}@26`, 'npm@11']

/** The images that stand in for the registry's: `node` as it would be, `build` the same with this machine's npm settings. */
export interface Base {
  node: string
  build: string
}

export async function standInBase(engine: Engine): Promise<Base> {
  const base = { node: 'outrider-test/node', build: 'outrider-test/node-build' }
  await importRoots(engine, base.node, await debianRoot(slim), await nodeRoot())
  const context = await mkdtemp(join(runFolder(), 'npm-'))
  await npmSettings(join(context, 'etc'))
  writeFileSync(join(context, 'Dockerfile'), `FROM ${base.node}\nCOPY etc /usr/local/etc\n`)
  await engine.docker('build', '--quiet', `--tag=${base.build}`, context)
  return base
}

/** Node and npm where the registry's image has them. */
function nodeRoot(): Promise<string> {
  return cached(`root-node-26-${process.arch}`, async (folder) => {
    const options = ['--no-save', '--ignore-scripts', '--no-audit', '--no-fund']
    await run('npm', ['install', '--prefix', join(folder, 'got'), ...options, ...packages])
    const local = join(folder, 'usr/local')
    mkdirSync(join(local, 'bin'), { recursive: true })
    mkdirSync(join(local, 'lib/node_modules'), { recursive: true })
    renameSync(join(folder, 'got/node_modules', node, 'bin/node'), join(local, 'bin/node'))
    renameSync(join(folder, 'got/node_modules/npm'), join(local, 'lib/node_modules/npm'))
    for (const name of ['npm', 'npx'])
      symlinkSync(`../lib/node_modules/npm/bin/${name}-cli.js`, join(local, 'bin', name))
    rmSync(join(folder, 'got'), { recursive: true })
  })
}

/** Why no image can be made here from Debian's packages, if so. */
export function needsDebian(): string | undefined {
  const system = existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : ''
  return /^ID=debian$/m.test(system) ? undefined : "images are made from Debian's packages, and this is no Debian"
}

/** A root file system of Debian packages, which are unpacked and never configured. */
export function debianRoot(names: string[]): Promise<string> {
  return cached(`root-${release}-${process.arch}-${names.join('+')}`, async (folder) => {
    await unpackRoot([release], names, [], folder)
    for (const name of ['bin', 'lib', 'sbin', 'lib64']) {
      mkdirSync(join(folder, 'usr', name), { recursive: true })
      symlinkSync(`usr/${name}`, join(folder, name))
    }
    await run('mkdir', ['-p', ...['dev', 'etc', 'proc', 'root', 'run', 'sys', 'tmp'].map((name) => join(folder, name))])
    await run('chmod', ['1777', join(folder, 'tmp')])
    writeFileSync(join(folder, 'etc/passwd'), 'root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n')
    writeFileSync(join(folder, 'etc/group'), 'root:x:0:\nnogroup:x:65534:\n')
  })
}

/** Several roots make one image; a later one's files go over those of an earlier one. */
export async function importRoots(engine: Engine, image: string, ...roots: string[]): Promise<void> {
  const whole = await mkdtemp(join(runFolder(), 'root-'))
  // Every user walks through it.
  chmodSync(whole, 0o755)
  for (const root of roots) await run('cp', ['-a', `${root}/.`, whole])
  const path = 'ENV PATH=/usr/local/bin:/usr/bin:/bin'
  const pipe = 'tar --create --owner=0 --group=0 --directory="$1" . | docker import --change "$2" - "$3"'
  await run('sh', ['-c', pipe, 'sh', whole, path, image], { env: engine.env })
  rmSync(whole, { recursive: true })
}

/** How npm reaches its registry from here: the files of settings and the certificates that it trusts. */
async function npmSettings(folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true })
  const setting = async (name: string) => (await run('npm', ['config', 'get', name])).stdout.trim()
  const files = await Promise.all(['globalconfig', 'userconfig'].map(setting))
  const lines = files.filter(existsSync).flatMap((file) => readFileSync(file, 'utf8').split('\n'))
  const kept = lines.filter((line) => !/^\s*(cafile|nodedir|prefix|cache)\b/.test(line))
  kept.push(`registry=${await setting('registry')}`)
  const trusted = [await setting('cafile'), process.env.NODE_EXTRA_CA_CERTS].find((file) => file && existsSync(file))
  if (trusted) {
    copyFileSync(trusted, join(folder, 'npm-ca.pem'))
    kept.push('cafile=/usr/local/etc/npm-ca.pem')
  }
  writeFileSync(join(folder, 'npmrc'), `${kept.join('\n')}\n`)
}
