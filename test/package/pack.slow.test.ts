import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, onTestFinished, test } from 'vitest'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))

/** A copy of what a clone has: the files that git tracks or would add, so that no build of this tree is among them. */
async function cleanClone(folder: string): Promise<void> {
  const { stdout } = await run('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    maxBuffer: 2 ** 24,
  })
  const files = stdout.split('\0').filter((file) => /^(src|sql)\/|^[^/]+$/.test(file))
  for (const file of files) {
    await mkdir(dirname(join(folder, file)), { recursive: true })
    // Deleted in the working tree and not yet in the index.
    await cp(join(root, file), join(folder, file)).catch((error) => {
      if (error.code !== 'ENOENT') throw error
    })
  }
  await symlink(join(root, 'node_modules'), join(folder, 'node_modules'))
}

test('npm pack in a clean clone builds the package: both entries load from it, and its command runs', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'outrider-pack-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  const clone = join(folder, 'clone')
  await cleanClone(clone)

  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', folder], {
    cwd: clone,
    maxBuffer: 2 ** 24,
  })
  const name = /outrider-[\w.-]+\.tgz/.exec(stdout)?.[0] as string
  const user = join(folder, 'user')
  const installed = join(user, 'node_modules/outrider')
  await mkdir(installed, { recursive: true })
  await run('tar', ['-xzf', join(folder, name), '-C', installed, '--strip-components=1'])
  // What npm would install for it.
  await symlink(join(root, 'node_modules'), join(installed, 'node_modules'))
  await writeFile(join(user, 'package.json'), '{ "type": "module" }')

  const program = `const [producer, consumer] = [await import('outrider'), await import('outrider/consumer')]
    console.log(typeof producer.publish, typeof consumer.createConsumer)`
  const loaded = await run(process.execPath, ['--input-type=module', '-e', program], { cwd: user })
  expect(loaded.stdout.trim()).toBe('function function')

  const { version, bin } = JSON.parse(await readFile(join(installed, 'package.json'), 'utf8'))
  const printed = await run(join(installed, bin.outrider), ['--version'])
  expect(printed.stdout).toContain(version)
})
