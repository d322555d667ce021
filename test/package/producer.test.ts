import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))

it("loads without any dependency behind import 'outrider'", async () => {
  // Outside the project no node_modules is in reach: an import of a package fails.
  const folder = await mkdtemp(join(tmpdir(), 'outrider-producer-'))
  try {
    const options = {
      rootDir: join(root, 'src'),
      outDir: folder,
      noEmit: false,
      typeRoots: [join(root, 'node_modules/@types')],
    }
    const config = {
      extends: join(root, 'tsconfig.json'),
      compilerOptions: options,
      include: [],
      files: [join(root, 'src/index.ts')],
    }
    await writeFile(join(folder, 'tsconfig.json'), JSON.stringify(config))
    await writeFile(join(folder, 'package.json'), '{ "type": "module" }')
    await run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', folder])
    const program = "import('./index.js').then((outrider) => console.log(Object.keys(outrider).join(' ')))"
    const { stdout } = await run(process.execPath, ['-e', program], { cwd: folder })
    expect(stdout.trim()).toBe('EventError TransactionError defineEvent publish toRow')
  } finally {
    await rm(folder, { recursive: true })
  }
})
