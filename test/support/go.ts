import { type ExecFileOptions, execFile } from 'node:child_process'
import { constants, setPriority } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { cached } from '../../testkit/services/folder.js'

/** What `beforeAll` gets as its timeout where a Go program may have to be built first: of Kubernetes, some minutes. */
export const BUILD_TIMEOUT = 1_200_000

/** Why a program cannot be had on this machine, which is a reason to skip. Anything else that goes wrong is not. */
export class Unavailable extends Error {
  override name = 'Unavailable'
}

/** The part of Vitest's test context that is needed here. */
interface Skippable {
  skip(note?: string): void
}

/** What `tool` gives; where that is not to be had on this machine, the test ends here and says why. */
export async function orSkip<T>(context: Skippable, name: string, tool: () => Promise<T>): Promise<T> {
  try {
    return await tool()
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error
    const reason = `needs ${name}: ${error.message}`
    console.warn(`skipped: ${reason}`)
    context.skip(reason)
    throw error
  }
}

/** For `beforeAll`, with BUILD_TIMEOUT: builds what there is to build, and leaves the skipping to each test. */
export async function prepare<T>(tool: () => Promise<T>): Promise<T | undefined> {
  return tool().catch((error) => {
    if (error instanceof Unavailable) return undefined
    throw error
  })
}

/** Builds the command of a module, such as helm.sh/helm/v3 and cmd/helm; returns the program's path, kept between runs. */
export async function goInstall(module: string, command: string, version: string): Promise<string> {
  const name = command.replace(/^.*\//, '')
  const folder = await cached(`${name}-${version}-${process.arch}`, async (target) => {
    requireBuilds(name, version)
    await requireModule(module, version)
    announce(name, version)
    await build(['install', '-ldflags=-s -w', `${module}/${command}@${version}`], target, { GOBIN: target })
  })
  return join(folder, name)
}

/**
 * Fetches a module and returns the path of its go.mod. Throws `Unavailable` where there is no Go, or none of its sources
 * hands out this module.
 */
export async function requireModule(module: string, version: string): Promise<string> {
  const download = promisify(execFile)('go', ['mod', 'download', '-json', `${module}@${version}`], {
    env: environment(),
  })
  const { stdout } = await download.catch((error) => {
    if (error.code === 'ENOENT') throw new Unavailable('there is no Go to build it with')
    if (error.stdout) return error as { stdout: string }
    throw error
  })
  const { GoMod, Error: refusal } = JSON.parse(stdout) as { GoMod?: string; Error?: string }
  if (GoMod && !refusal) return GoMod
  throw new Unavailable(`Go cannot get the module ${module} ${version}: ${refusal}`)
}

/**
 * Throws `Unavailable` unless this run may build programs, which takes minutes: `npm test` does not, and uses what an
 * earlier run has built.
 */
export function requireBuilds(name: string, version: string): void {
  if (process.env.OUTRIDER_TEST_BUILD) return
  throw new Unavailable(
    `${name} ${version} is not built yet. Run \`npm run test:chart\`, or set OUTRIDER_TEST_BUILD=1, to build it with Go`,
  )
}

/** A build is long and silent; whoever waits at the terminal should know for what. */
export function announce(name: string, version: string): void {
  console.warn(`building ${name} ${version}, which takes some minutes the first time`)
}

/**
 * Runs `go` for a folder of the cache, with the lowest priority, for tests run beside it. Builds of several processes
 * come one after the other where there is a flock to see to it: side by side they would do the same work twice.
 */
export async function build(args: string[], folder: string, env: Record<string, string> = {}): Promise<void> {
  const options: ExecFileOptions = { cwd: folder, env: environment(env), maxBuffer: 64 << 20 }
  const start = async (program: string, args: string[]) => {
    const running = promisify(execFile)(program, args, options)
    if (running.child.pid !== undefined) setPriority(running.child.pid, constants.priority.PRIORITY_LOW)
    await running
  }
  const lock = join(dirname(folder), '.go.lock')
  try {
    await start('flock', [lock, 'go', ...args]).catch((error) => {
      if (error.code !== 'ENOENT') throw error
      return start('go', args)
    })
  } catch (error) {
    const [tooOld] = /requires go >= .*/.exec((error as { stderr?: string }).stderr ?? '') ?? []
    throw tooOld ? new Unavailable(`this Go is too old: it ${tooOld}`) : error
  }
}

/** Without cgo, so that no C compiler is needed. */
function environment(env: Record<string, string> = {}): NodeJS.ProcessEnv {
  return { ...process.env, CGO_ENABLED: '0', GO111MODULE: 'on', GOWORK: 'off', GOFLAGS: '', ...env }
}
