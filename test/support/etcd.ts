import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { hasApt, libraryPath, unpackDebian } from '../../testkit/services/debian.js'
import { cached } from '../../testkit/services/folder.js'
import { freePort } from '../../testkit/services/port.js'
import { type Host, type Launch, LocalHost } from '../../testkit/services/process.js'
import { Service } from '../../testkit/services/service.js'
import { Unavailable } from './go.js'

/** The store of a Kubernetes API server, for one test run: nothing of it outlives a power failure. */
export async function startEtcd(): Promise<Etcd> {
  const etcd = new Etcd(await etcdHost(), await freePort(), await freePort())
  await etcd.start().catch(async (error) => {
    await etcd.remove()
    throw error
  })
  return etcd
}

export class Etcd extends Service {
  protected readonly endSignal = 'SIGKILL'
  readonly url: string
  readonly #peers: string

  constructor(host: Host, port: number, peerPort: number) {
    super('kubernetes', host, port)
    this.url = `http://127.0.0.1:${port}`
    this.#peers = `http://127.0.0.1:${peerPort}`
    mkdirSync(this.dataDir, { mode: 0o700 })
  }

  protected prepare(): Launch {
    const settings = {
      'data-dir': this.dataDir,
      'listen-client-urls': this.url,
      'advertise-client-urls': this.url,
      'listen-peer-urls': this.#peers,
      'initial-advertise-peer-urls': this.#peers,
      'initial-cluster': `default=${this.#peers}`,
      'unsafe-no-fsync': 'true',
    }
    const args = Object.entries(settings).map(([name, value]) => `--${name}=${value}`)
    return { program: 'etcd', args, folder: this.folder, log: this.log, port: this.port, kind: 'kubernetes' }
  }

  protected async answers(): Promise<boolean> {
    return (await fetch(`${this.url}/health`)).ok
  }
}

/** From the PATH, else from Debian's packages, unpacked and not installed. Throws `Unavailable` where there is neither. */
export async function etcdHost(): Promise<Host> {
  const folders = (process.env.PATH ?? '').split(':')
  for (const folder of folders) {
    const works = promisify(execFile)(join(folder, 'etcd'), ['--version'])
    if (await works.then(() => true).catch(() => false)) return new LocalHost({ bin: folder, origin: 'PATH' })
  }
  if (!hasApt()) throw new Unavailable('etcd is neither on the PATH nor to be had of apt-get')
  const codename = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown'
  const unpack = (target: string) => unpackDebian(['etcd-server'], target, 'usr/bin/etcd')
  const folder = await cached(`etcd-${codename}-${process.arch}`, unpack).catch((cause: Error) => {
    throw new Unavailable(`the package etcd-server cannot be had: ${cause.message}`, { cause })
  })
  return new LocalHost({ bin: join(folder, 'usr/bin'), origin: 'Debian package', env: libraryPath(folder) })
}
