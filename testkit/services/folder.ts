import { execFile } from 'node:child_process'
import { chmodSync, chownSync, existsSync, lstatSync, mkdirSync, mkdtempSync, realpathSync } from 'node:fs'
import { mkdtemp, rename, rm } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { isOpenToAll, serviceAccount } from './account.js'
import { startGuard } from './guard.js'

let root: string | undefined

/** The folder of everything that this process starts. The guard removes it when the process has ended. */
export function runFolder(): string {
  if (!root) {
    root = mkdtempSync(join(temporaryFolder(), 'outrider-test-'))
    // The servers' account must be able to walk through; it owns only its own folders inside.
    chmodSync(root, 0o711)
    startGuard(root)
  }
  return root
}

/** A new empty folder for one server, owned by the account that runs it. */
export function scratch(name: string): string {
  const folder = mkdtempSync(join(runFolder(), `${name}-`))
  const account = serviceAccount()
  if (account) chownSync(folder, account.uid, account.gid)
  return folder
}

/** Copies a whole tree with owners and modes; the target must not exist yet. */
export async function copyTree(from: string, to: string): Promise<void> {
  await promisify(execFile)('cp', ['-a', from, to])
}

/** The folder that `build` fills, kept between runs. */
export async function cached(name: string, build: (folder: string) => Promise<void>): Promise<string> {
  return (await unpacked(name, build)).folder
}

/**
 * The same, with `unpackedInto` where this call has filled it. Two processes may build the same one at once: each builds beside
 * it, the first to finish moves its own into place, so nobody ever sees a half-filled folder.
 */
export async function unpacked(
  name: string,
  build: (folder: string) => Promise<void>,
): Promise<{ folder: string; unpackedInto?: string }> {
  const cache = cacheFolder()
  const target = join(cache, name)
  if (existsSync(target)) return { folder: target }
  const workshop = await mkdtemp(join(cache, `.${name}-`))
  chmodSync(workshop, 0o755)
  try {
    await build(workshop)
    await rename(workshop, target).catch((error) => {
      if (!existsSync(target)) throw error
    })
  } finally {
    await rm(workshop, { recursive: true, force: true })
  }
  return { folder: target, unpackedInto: target }
}

/** Where downloads and copies of binaries are kept: OUTRIDER_TEST_CACHE, else the user's cache folder. */
function cacheFolder(): string {
  const given = process.env.OUTRIDER_TEST_CACHE
  const home = process.env.XDG_CACHE_HOME || join(homedir(), '.cache')
  const folder =
    given || (serviceAccount() ? join(temporaryFolder(), 'outrider-test-cache') : join(home, 'outrider-test'))
  mkdirSync(folder, { recursive: true, mode: 0o755 })
  // Programs are run from here, and in a shared temporary folder anybody could have made it first.
  const found = lstatSync(folder)
  if (!found.isDirectory() || found.uid !== process.getuid?.()) {
    throw new Error(
      `Expected the cache folder ${folder} to be a folder of this user, found one of user ${found.uid}. ` +
        'Set OUTRIDER_TEST_CACHE to a folder of your own, one that user "nobody" can read where you are root.',
    )
  }
  return folder
}

function temporaryFolder(): string {
  const given = realpathSync(tmpdir())
  if (!serviceAccount()) return given
  const open = [given, '/tmp', '/var/tmp'].find((folder) => existsSync(folder) && isOpenToAll(folder))
  if (open) return open
  throw new Error(`Expected a temporary folder that every user can enter, found ${given}. Set TMPDIR to one.`)
}
