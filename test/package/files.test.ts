import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { dirname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

it('the package holds the sources that its source maps name, so that stack traces lead to files, and no tests', async () => {
  const { stdout } = await promisify(execFile)('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: root,
  })
  const [packed] = JSON.parse(stdout) as { files: { path: string }[] }[]
  const files = new Set(packed!.files.map(({ path }) => path))
  const maps = [...files].filter((path) => path.endsWith('.js.map'))
  expect(maps).toContain('dist/consumer/consumer.js.map')
  for (const map of maps) {
    const { sources } = JSON.parse(await readFile(join(root, map), 'utf8')) as { sources: string[] }
    for (const source of sources) expect(files).toContain(normalize(join(dirname(map), source)))
  }
  expect([...files].filter((path) => path.endsWith('.test.ts'))).toEqual([])
})
