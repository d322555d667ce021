import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** The relative paths that the TypeScript files of a folder import, statically or not, each as "file -> target". */
function importsOf(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .flatMap((file) => {
      const path = join(root, folder, file)
      const specifiers = readFileSync(path, 'utf8').matchAll(/(?:from|import\(?|new URL\()\s*'(\.[^']*)'/g)
      return [...specifiers].map(([, specifier]) => {
        const target = relative(root, join(dirname(path), specifier as string))
        return `${join(folder, file)} -> ${target}`
      })
    })
}

test.each(['examples', 'bench', 'testkit', 'src'])('%s/ imports nothing from test/', (folder) => {
  const imports = importsOf(folder)
  expect(imports.length).toBeGreaterThan(0)
  const own = folder === 'src' ? imports.filter((line) => !line.split(' -> ')[0]?.endsWith('.test.ts')) : imports
  expect(own.filter((line) => line.includes(' -> test/'))).toEqual([])
})
