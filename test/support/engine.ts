import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { hasDocker } from '../../testkit/services/containers.js'
import { hasApt, libraryPath, unpackDebian } from '../../testkit/services/debian.js'
import { cached, runFolder } from '../../testkit/services/folder.js'
import { unwatch, watch } from '../../testkit/services/guard.js'
import { tail } from '../../testkit/services/process.js'
import { until } from '../../testkit/services/until.js'

/** Why there is no Docker engine on this machine: a reason to skip a test, not to fail it. */
export class NoEngine extends Error {}

/**
 * `host`: containers share this machine's network. `apart`: the engine has a network of its own with bridges and
 * published ports, which ends with it, and nothing of this machine's is changed; who wants in runs `inside`.
 */
export type EngineNetwork = 'host' | 'apart'

/** A Docker engine for tests, and its client. */
export interface Engine {
  /** What the client, and testcontainers, find it by. */
  readonly env: Record<string, string | undefined>
  /** Runs the client; its output without the last line break. */
  docker(...args: string[]): Promise<string>
  /** The command line that runs a program in the engine's network. */
  inside(...command: string[]): string[]
  /** Ends our own; takes what the tests made, `outrider-test/…`, out of another. */
  stop(): Promise<void>
}

/** The running engine, if its network will do; else one of our own from Debian's packages. Rejects with NoEngine. */
export async function startEngine(network: EngineNetwork): Promise<Engine> {
  if (network === 'host' && process.platform === 'linux' && (await hasDocker())) {
    const docker = client(process.env)
    const stop = async () => {
      const ours = ['--filter=reference=outrider-test/*', '--format={{.Repository}}:{{.Tag}}']
      const images = await docker('image', 'ls', ...ours)
      if (images) await docker('image', 'rm', '--force', ...images.split('\n'))
    }
    return { env: process.env, docker, inside: (...command) => command, stop }
  }
  return startOwn(network, await engineFolder())
}

const client =
  (env: Engine['env']) =>
  async (...args: string[]) => {
    const { stdout } = await promisify(execFile)('docker', args, { env, maxBuffer: 2 ** 26 })
    return stdout.trimEnd()
  }

async function engineFolder(): Promise<string> {
  if (process.platform !== 'linux') throw new NoEngine('no Docker engine of Linux runs here')
  if (process.getuid?.() !== 0) throw new NoEngine('Docker is not running, and only root could start an engine')
  if (!hasApt()) throw new NoEngine('Docker is not running, and there is no Debian to fetch an engine from')
  const codename = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown'
  return cached(`docker-${codename}-${process.arch}`, async (folder) => {
    await unpackDebian(['docker.io', 'containerd', 'runc', 'iproute2'], folder, 'usr/sbin/dockerd')
    const ip = ['usr/bin/ip', 'bin/ip'].find((path) => existsSync(join(folder, path)))
    await unpackDebian(['iproute2'], folder, ip)
    // A package of its own since Debian 13.
    if (!existsSync(join(folder, 'usr/bin/docker'))) await unpackDebian(['docker-cli'], folder)
  })
}

/**
 * In namespaces of its own the engine dies with all its containers when its first process does, however that came
 * about; what it mounts and what it writes to the places it cannot be told goes, too.
 */
const script = `
for folder in /etc/docker /opt/containerd /run/containerd /run/docker; do
  mkdir -p "$folder" && mount -t tmpfs engine "$folder" || exit
done
[ "$1" = host ] || ip link set lo up || exit
shift
exec "$@"
`

async function startOwn(network: EngineNetwork, unpacked: string): Promise<Engine> {
  const folder = await mkdtemp(join(runFolder(), 'engine-'))
  const log = join(folder, 'log')
  const socket = join(folder, 'docker.sock')
  const data = join(folder, 'data')
  mkdirSync(data)
  const bin = ['usr/sbin', 'usr/bin', 'sbin', 'bin'].map((name) => join(unpacked, name))
  const PATH = [...bin, process.env.PATH].join(delimiter)
  const namespaces = [
    '--mount',
    '--pid',
    '--fork',
    '--mount-proc',
    '--kill-child',
    ...(network === 'apart' ? ['--net'] : []),
  ]
  const options = [`--host=unix://${socket}`, `--data-root=${data}`, `--exec-root=${join(folder, 'exec')}`]
  options.push(`--pidfile=${join(folder, 'pid')}`, '--iptables=false', ...(network === 'host' ? ['--bridge=none'] : []))
  const output = openSync(log, 'a')
  const child = spawn('unshare', [...namespaces, 'sh', '-c', script, 'sh', network, 'dockerd', ...options], {
    env: { ...process.env, ...libraryPath(unpacked), PATH },
    stdio: ['ignore', output, output],
    detached: true,
  })
  closeSync(output)
  let ended = false
  const end = once(child, 'exit')
    .catch(() => {})
    .then(() => {
      ended = true
      if (child.pid !== undefined) unwatch(child.pid)
    })
  if (child.pid !== undefined) watch(child.pid, 'KILL')
  child.unref()
  const env = { ...process.env, PATH, DOCKER_HOST: `unix://${socket}`, DOCKER_BUILDKIT: '1', DOCKER_CONFIG: folder }
  const docker = client(env)
  const answers = () => ended || docker('version').then(() => true)
  await until(answers, { message: () => `a Docker engine\n${tail(log)}` })
  if (ended) throw new NoEngine(`a Docker engine does not start here:\n${tail(log)}`)
  return {
    env,
    docker,
    inside: (...command) =>
      network === 'host' ? command : ['nsenter', '--net', '--target', String(child.pid), ...command],
    stop: async () => {
      child.ref()
      child.kill('SIGKILL')
      await end
    },
  }
}
