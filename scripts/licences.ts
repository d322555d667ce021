import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

// `npm run licences`: the licences of everything in package-lock.json, and that what is installed in production runs no
// script when it is.

/** What may be shipped: permissive, with nothing to do but to keep the notice. SPDX identifiers. */
const PRODUCTION = [
  '0BSD',
  'Apache-2.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'BlueOak-1.0.0',
  'CC0-1.0',
  'ISC',
  'MIT',
  'Unlicense',
]
/** What the work is done with, and nobody is given. */
const DEVELOPMENT = [...PRODUCTION, 'MPL-2.0', 'Python-2.0', 'CC-BY-3.0', 'CC-BY-4.0']

/** What is read of a lockfile of npm. https://docs.npmjs.com/cli/configuring-npm/package-lock-json */
export interface Lock {
  packages: Record<
    string,
    {
      version?: string
      license?: string
      dev?: boolean
      devOptional?: boolean
      optional?: boolean
      link?: boolean
      hasInstallScript?: boolean
    }
  >
}

/**
 * What is wrong, a line for each; empty when all is well. `licenceOf` is asked for what the lockfile does not say: by the path of
 * the package; undefined where that is not installed.
 */
export function findProblems({ packages }: Lock, licenceOf: (path: string) => string | undefined): string[] {
  return Object.entries(packages).flatMap(
    ([path, { version, license, dev = false, optional = false, link = false, hasInstallScript }]) => {
      if (path === '' || link) return []
      const name = `${path.replace(/^.*node_modules\//, '')}@${version}`
      const problems: string[] = []
      if (!dev && hasInstallScript) {
        problems.push(
          `${name} runs a script when it is installed, which no production dependency may. Find another package.`,
        )
      }
      const licence = license ?? licenceOf(path)
      // For another platform: nobody here can look into it.
      if (licence === undefined && dev && optional) return problems
      const allowed = dev ? DEVELOPMENT : PRODUCTION
      if (licence === undefined) problems.push(`${name} names no licence. ${REMEDY}`)
      else if (!isAllowed(licence, allowed)) {
        const kind = dev ? 'development' : 'production'
        problems.push(`${name} is under ${licence}, expected ${allowed.join(', ')} in ${kind}. ${REMEDY}`)
      }
      return problems
    },
  )
}

const REMEDY = 'Find another package, or read the licence and, if it may be used, add it to scripts/licences.ts.'

/** OR: one of them suffices; AND: all are needed. Parentheses as in SPDX; whatever is not understood is not allowed. */
export function isAllowed(expression: string, allowed: readonly string[]): boolean {
  const words = expression.match(/[()]|[^\s()]+/g) ?? []
  let at = 0
  const either = (): boolean => {
    let result = both()
    while (words[at] === 'OR') {
      at++
      // Both sides are read, whatever the first one says.
      result = [result, both()].some(Boolean)
    }
    return result
  }
  const both = (): boolean => {
    let result = one()
    while (words[at] === 'AND') {
      at++
      result = [result, one()].every(Boolean)
    }
    return result
  }
  const one = (): boolean => {
    const word = words[at++]
    if (word !== '(') return word !== undefined && allowed.includes(word)
    const result = either()
    return words[at++] === ')' && result
  }
  const result = either()
  return result && at === words.length
}

/** Of a package that is installed; older ones have a list, or an object. */
export function licenceIn(folder: string): string | undefined {
  const file = join(folder, 'package.json')
  if (!existsSync(file)) return undefined
  const { license, licenses } = JSON.parse(readFileSync(file, 'utf8')) as {
    license?: string | { type: string }
    licenses?: { type: string }[]
  }
  const named = license === undefined ? (licenses ?? []) : [license]
  const types = named.map((each) => (typeof each === 'string' ? each : each.type))
  return types.length === 0 ? undefined : types.join(' OR ')
}

function main(): void {
  const root = join(import.meta.dirname, '..')
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as Lock
  const problems = findProblems(lock, (path) => licenceIn(join(root, path)))
  for (const problem of problems) console.error(problem)
  if (problems.length > 0) process.exitCode = 1
  else
    console.log(
      `The licences of ${Object.keys(lock.packages).length - 1} packages are allowed; none in production has an install script.`,
    )
}

if (process.argv[1] === import.meta.filename) main()
