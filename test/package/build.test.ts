import { execFile } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it, onTestFinished } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

it('a build with a type error fails, and leaves no dist that lacks half of its files', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'outrider-build-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  for (const name of ['tsconfig.json', 'tsconfig.build.json', 'package.json'])
    cpSync(join(root, name), join(folder, name))
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  for (const name of ['cli', 'redis/scripts/includes']) mkdirSync(join(folder, 'src', name), { recursive: true })
  const scripts = ['append.lua', 'includes/position.lua']
  for (const name of [...scripts, 'script.ts']) writeFileSync(join(folder, 'src/redis/scripts', name), '')
  const { scripts: commands } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const build = (main: string) => {
    writeFileSync(join(folder, 'src/cli/main.ts'), main)
    const PATH = [join(root, 'node_modules/.bin'), process.env.PATH].join(delimiter)
    return promisify(execFile)('sh', ['-c', commands.build], { cwd: folder, env: { ...process.env, PATH } })
  }
  await build('export const text: string = "1"')
  for (const name of scripts) expect(existsSync(join(folder, 'dist/redis/scripts', name))).toBe(true)
  await expect(build('export const text: string = 1')).rejects.toThrow()
  expect(existsSync(join(folder, 'dist'))).toBe(false)
})
