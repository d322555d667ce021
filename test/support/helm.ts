import { execFile } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { scratch } from '../../testkit/services/folder.js'
import { goInstall, orSkip } from './go.js'

const version = 'v3.22.0'

/** The oldest that the chart is meant for. */
const oldest = [3, 14] as const

export interface Ended {
  code: number
  out: string
  err: string
}

let found: Promise<string> | undefined

/** The program's path: from the PATH, else built by Go. Throws `Unavailable` where neither is to be had. */
export function helmPath(): Promise<string> {
  found ??= findHelm()
  return found
}

/**
 * Helm for one test, or the test is skipped and says why. It knows nothing of this user's plugins, repositories and
 * clusters; `kubeconfig` names the cluster to talk to. Call `prepare(helmPath)` in a `beforeAll` with BUILD_TIMEOUT.
 */
export async function helm(context: { skip(note?: string): void }, kubeconfig = '/dev/null'): Promise<Helm> {
  return new Helm(await orSkip(context, 'Helm', helmPath), kubeconfig)
}

export class Helm {
  readonly #path: string
  readonly #env: NodeJS.ProcessEnv

  constructor(path: string, kubeconfig: string) {
    const folder = join(scratch('helm'), 'home')
    mkdirSync(folder)
    this.#path = path
    this.#env = {
      PATH: process.env.PATH,
      HOME: folder,
      KUBECONFIG: kubeconfig,
      HELM_CACHE_HOME: join(folder, 'cache'),
      HELM_CONFIG_HOME: join(folder, 'config'),
      HELM_DATA_HOME: join(folder, 'data'),
    }
  }

  /** Runs it to its end, whatever that is. */
  async try(...args: string[]): Promise<Ended> {
    try {
      const { stdout, stderr } = await promisify(execFile)(this.#path, args, { env: this.#env, maxBuffer: 64 << 20 })
      return { code: 0, out: stdout, err: stderr }
    } catch (error) {
      const { code, stdout, stderr } = error as { code?: unknown; stdout?: string; stderr?: string }
      if (typeof code !== 'number') throw error
      return { code, out: stdout ?? '', err: stderr ?? '' }
    }
  }

  /** Its standard output; whatever fails is an error with all that it said. */
  async run(...args: string[]): Promise<string> {
    const { code, out, err } = await this.try(...args)
    if (code === 0) return out
    throw new Error(`Expected helm ${args.join(' ')} to succeed, it ended with ${code}:\n${err}${out}`)
  }
}

async function findHelm(): Promise<string> {
  const installed = await promisify(execFile)('helm', ['version', '--template', '{{.Version}}']).catch(() => undefined)
  const [, major = 0, minor = 0] = (/^v(\d+)\.(\d+)/.exec(installed?.stdout ?? '') ?? []).map(Number)
  const isRecent = major > oldest[0] || (major === oldest[0] && minor >= oldest[1])
  return isRecent ? 'helm' : goInstall('helm.sh/helm/v3', 'cmd/helm', version)
}
