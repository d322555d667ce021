import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { unwatch, watch } from '../../testkit/services/guard.js'
import { until } from '../../testkit/services/until.js'
import type { ReleaseWorkerConfig } from './release-worker.js'

const workerProgram = fileURLToPath(new URL('release-worker.ts', import.meta.url))
const tree = fileURLToPath(new URL('../../', import.meta.url))

/** An installed Outrider of some version, made of the tree as it is built. */
export class Release {
  private constructor(readonly folder: string) {}

  /** `migrations`: files that it has besides those of the tree, or, where undefined, has not. */
  static async make(version: string, migrations: Record<string, string | undefined> = {}): Promise<Release> {
    const folder = await mkdtemp(join(tmpdir(), `outrider-${version}-`))
    for (const part of ['dist', 'sql']) await cp(join(tree, part), join(folder, part), { recursive: true })
    await symlink(join(tree, 'node_modules'), join(folder, 'node_modules'))
    const manifest = JSON.parse(await readFile(join(tree, 'package.json'), 'utf8'))
    await writeFile(join(folder, 'package.json'), JSON.stringify({ ...manifest, version }))
    for (const [name, sql] of Object.entries(migrations)) {
      const file = join(folder, 'sql', name)
      if (sql === undefined) await rm(file)
      else await writeFile(file, sql)
    }
    return new Release(folder)
  }

  /**
   * The tree as it was before the first of these migrations came, built. Throws where the history does not go back so far,
   * as in a shallow clone.
   */
  static async before(migrations: string[]): Promise<Release> {
    const run = async (command: string, args: string[], cwd = tree) =>
      (await promisify(execFile)(command, args, { cwd, maxBuffer: 1 << 26 })).stdout.trim()
    const files = migrations.map((name) => `sql/${name}.sql`)
    const added = await run('git', ['log', '--diff-filter=A', '--reverse', '--format=%H', '--', ...files])
    const [first] = added.split('\n')
    // Not committed yet: then the last commit is the tree before them.
    const commit = await run('git', ['rev-parse', '--verify', first ? `${first}^` : 'HEAD'])
    const folder = await mkdtemp(join(tmpdir(), 'outrider-released-'))
    const archive = join(folder, 'tree.tar')
    await run('git', [
      'archive',
      '--output',
      archive,
      commit,
      'src',
      'sql',
      'package.json',
      'tsconfig.json',
      'tsconfig.build.json',
    ])
    await run('tar', ['-xf', archive], folder)
    await symlink(join(tree, 'node_modules'), join(folder, 'node_modules'))
    await run('npm', ['run', '--silent', 'build'], folder)
    return new Release(folder)
  }

  get main(): string {
    return join(this.folder, 'dist/cli/main.js')
  }

  /** Runs a command of it, with its exit code and all that it printed. */
  async run(args: string[], env: Record<string, string>): Promise<{ code: number; text: string }> {
    const { PATH = '', HOME = '' } = process.env
    const running = promisify(execFile)(process.execPath, [this.main, ...args], { env: { PATH, HOME, ...env } })
    return running.then(
      ({ stdout, stderr }) => ({ code: 0, text: stdout + stderr }),
      ({ code, stdout, stderr }) => ({ code, text: stdout + stderr }),
    )
  }

  worker(config: Omit<ReleaseWorkerConfig, 'folder'>): ReleaseWorker {
    return new ReleaseWorker({ ...config, folder: this.folder })
  }

  remove(): Promise<void> {
    return rm(this.folder, { recursive: true })
  }
}

/** A worker with its library, as a process of its own. */
export class ReleaseWorker {
  readonly #child: ChildProcess
  readonly #ended: Promise<number | null>
  #said = ''

  constructor(config: ReleaseWorkerConfig) {
    const { PATH = '', HOME = '' } = process.env
    this.#child = spawn(process.execPath, ['--import', 'tsx', workerProgram, JSON.stringify(config)], {
      env: { PATH, HOME },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const pid = this.#child.pid as number
    watch(pid, 'KILL')
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.on('data', (chunk) => {
        this.#said += chunk
      })
    }
    this.#ended = once(this.#child, 'exit').then(([code]) => {
      unwatch(pid)
      return code
    })
  }

  started(): Promise<unknown> {
    const isStarted = () => this.#said.includes('the consumer has started')
    return until(isStarted, { message: () => `a worker to start\n${this.#said}` })
  }

  /** SIGTERM; resolves with the exit code. */
  stop(): Promise<number | null> {
    this.#child.kill('SIGTERM')
    return this.#ended
  }

  /** SIGKILL; resolves when it is gone. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#ended
  }
}
