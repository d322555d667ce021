import { execFile } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { hasApt, unpackDebian } from '../../testkit/services/debian.js'
import { cached } from '../../testkit/services/folder.js'
import { orSkip, Unavailable } from './go.js'

const run = promisify(execFile)

let found: Promise<string> | undefined

/** The program's path: from the PATH, else from Debian's package, unpacked and not installed. */
export function promtoolPath(): Promise<string> {
  found ??= findPromtool()
  return found
}

/** Checks and tries rules as Prometheus would read them; without the program the test is skipped and says why. */
export async function promtool(context: { skip(note?: string): void }): Promise<Promtool> {
  return new Promtool(await orSkip(context, 'promtool', promtoolPath))
}

export class Promtool {
  readonly #path: string

  constructor(path: string) {
    this.#path = path
  }

  /** What it says; an error with all of it where it finds fault. */
  async run(...args: string[]): Promise<string> {
    try {
      return (await run(this.#path, args, { maxBuffer: 64 << 20 })).stdout
    } catch (error) {
      const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string }
      throw new Error(`Expected promtool ${args.join(' ')} to find no fault, it said:\n${stderr}${stdout}`)
    }
  }
}

async function findPromtool(): Promise<string> {
  const installed = await run('promtool', ['--version']).catch(() => undefined)
  if (installed) return 'promtool'
  if (!hasApt()) throw new Unavailable('it is not on the PATH, and this is no Debian to take it from')
  const codename = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown'
  const folder = await cached(`promtool-${codename}-${process.arch}`, async (target) => {
    await unpackDebian(['prometheus'], target, 'usr/bin/promtool')
    // The server comes in the same package, and is as large again.
    rmSync(join(target, 'usr/bin/prometheus'))
  })
  return join(folder, 'usr/bin/promtool')
}
