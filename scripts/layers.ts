import { readdirSync, readFileSync } from 'node:fs'
import { join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'

const SOURCE = fileURLToPath(new URL('../src/', import.meta.url))

/**
 * The layers of src/, from the lowest to the highest. A module imports from its own folder and from lower layers. Folders
 * of one layer do not import each other. A file of src/ itself counts as a folder.
 */
const LAYERS: readonly (readonly string[])[] = [
  ['base'],
  ['event'],
  ['config', 'producer'],
  ['postgres', 'redis', 'telemetry'],
  ['relay', 'consumer', 'check'],
  ['status', 'audit'],
  ['cli', 'index.ts'],
]

type Imports = ReadonlyMap<string, readonly string[]>

/** Each module of src/ with the modules of src/ that it imports, types and `import()` included. Tests are left out. */
function readImports(): Imports {
  const files = readdirSync(SOURCE, { recursive: true, encoding: 'utf8' }).filter(
    (file) => file.endsWith('.ts') && !file.endsWith('.test.ts'),
  )
  const known = new Set(files)
  return new Map(
    files.map((file) => {
      const specifiers = readFileSync(join(SOURCE, file), 'utf8').matchAll(/(?:from|import\(?)\s*'(\.[^']*)'/g)
      const targets = [...specifiers].map(([, path = '']) => normalize(join(file, '..', path)).replace(/\.js$/, '.ts'))
      return [file, [...new Set(targets.filter((target) => known.has(target)))]]
    }),
  )
}

const folderOf = (file: string): string => file.split('/')[0] ?? file

const layerOf = (folder: string): number => LAYERS.findIndex((folders) => folders.includes(folder))

/** Why each import that the layers forbid is forbidden. */
function forbiddenImports(imports: Imports): string[] {
  return [...imports].flatMap(([file, targets]) => {
    const from = folderOf(file)
    if (layerOf(from) < 0) return [`src/${file}: folder ${from} is in no layer; add it to LAYERS in scripts/layers.ts`]
    return targets.flatMap((target) => {
      const to = folderOf(target)
      if (to === from || layerOf(to) < layerOf(from)) return []
      const why =
        layerOf(to) === layerOf(from) ? `${from} and ${to} must not know each other` : `${to} is above ${from}`
      return [`src/${file} imports src/${target}: ${why}`]
    })
  })
}

/** The strongly connected components of more than one module, each sorted (Tarjan's algorithm). */
function cyclesOf(imports: Imports): string[][] {
  const order = new Map<string, number>()
  const lowest = new Map<string, number>()
  const stack: string[] = []
  const cycles: string[][] = []
  const visit = (file: string): number => {
    let low = order.size
    order.set(file, low)
    stack.push(file)
    const own = low
    for (const target of imports.get(file) ?? []) {
      if (!order.has(target)) low = Math.min(low, visit(target))
      else if (stack.includes(target)) low = Math.min(low, lowest.get(target) ?? order.get(target) ?? low)
    }
    lowest.set(file, low)
    if (low === own) {
      const members = stack.splice(stack.indexOf(file))
      if (members.length > 1) cycles.push(members.toSorted())
    }
    return low
  }
  for (const file of imports.keys()) if (!order.has(file)) visit(file)
  return cycles
}

const imports = readImports()
const cycles = cyclesOf(imports).map((files) => files.join(' <-> '))
const problems = [...forbiddenImports(imports), ...cycles.map((cycle) => `import cycle: ${cycle}`)]
for (const problem of problems) console.error(problem)
console.log(`${imports.size} modules, ${problems.length} problems, ${cycles.length} import cycles`)
process.exit(problems.length === 0 ? 0 : 1)
