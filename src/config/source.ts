import { readFileSync } from 'node:fs'
import { parseDocument } from 'yaml'
import { withoutLastBreak } from '../base/secret.js'
import { type Problem, refuse } from './problem.js'
import { ALTERNATIVES, FALLBACKS, VARIABLES } from './variables.js'

export type Tree = { [key: string]: unknown }

/** The settings as they were given, before anything is checked, and where each of them came from. */
export interface Source {
  tree: Tree
  /** By path: the variable that set it. What is not in here comes from the file, or from nowhere. */
  variables: Map<string, string>
  /** By path of a URL: the file that it was read from. */
  urlFiles: Map<string, string>
  file: string | undefined
  problems: Problem[]
}

/** Reads the file and lays the variables over it. Throws an OutriderError only when the file cannot be read at all. */
export function readSource(file: string | undefined, env: NodeJS.ProcessEnv): Source {
  const tree = file === undefined ? {} : readTree(file)
  const source: Source = { tree, variables: new Map(), urlFiles: new Map(), file, problems: [] }
  refuseBoth(source, 'file')
  for (const [variable, path] of Object.entries(VARIABLES)) {
    if (env[variable]) overlay(source, path, variable, env[variable])
  }
  refuseBoth(source, 'variables')
  for (const [variable, path] of Object.entries(FALLBACKS)) {
    if (env[variable] && get(source.tree, path) === undefined && get(source.tree, `${path}File`) === undefined) {
      overlay(source, path, variable, env[variable])
    }
  }
  for (const path of ['postgres.url', 'redis.url']) readUrlFile(source, path)
  return source
}

function readTree(file: string): Tree {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    const found = (error as NodeJS.ErrnoException).code ?? 'an unreadable one'
    throw refuse([{ name: file, expected: 'a readable configuration file', found }])
  }
  const document = parseDocument(text)
  const [error] = document.errors
  if (error) {
    // Only the first line: below it yaml quotes the file, which may hold passwords.
    const found = (error.message.split('\n')[0] as string).replace(/:$/, '')
    throw refuse([{ name: file, expected: 'valid YAML', found }])
  }
  const tree: unknown = document.toJS({ maxAliasCount: 100 }) ?? {}
  if (isTree(tree)) return tree
  const found = Array.isArray(tree) ? 'a list' : `a ${typeof tree}`
  throw refuse([{ name: file, expected: 'YAML with a setting on each line, such as slot: outrider_shop', found }])
}

function overlay(source: Source, path: string, variable: string, value: string): void {
  const pair = ALTERNATIVES.find((pair) => pair.includes(path))
  const other = pair?.find((one) => one !== path)
  if (other !== undefined && !source.variables.has(other)) set(source.tree, other, undefined)
  if (set(source.tree, path, value)) source.variables.set(path, variable)
}

/** Looked for twice: within the file, and, once the variables have replaced what they replace, among them. */
function refuseBoth(source: Source, where: 'file' | 'variables'): void {
  for (const [one, other] of ALTERNATIVES) {
    if (get(source.tree, one) === undefined || get(source.tree, other) === undefined) continue
    const names = where === 'file' ? [one, other] : [one, other].map((path) => source.variables.get(path))
    if (names.includes(undefined)) continue
    source.problems.push({ name: `${names[0]} and ${names[1]}`, expected: 'only one of the two', found: 'both' })
  }
}

function readUrlFile(source: Source, path: string): void {
  const file = get(source.tree, `${path}File`)
  set(source.tree, `${path}File`, undefined)
  if (file === undefined) return
  const name = source.variables.get(`${path}File`) ?? `${path}File in ${source.file}`
  try {
    if (typeof file !== 'string') throw new TypeError('not a text')
    set(source.tree, path, withoutLastBreak(readFileSync(file, 'utf8')))
    source.variables.set(path, name)
    source.urlFiles.set(path, file)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    source.problems.push({ name, expected: 'a readable file that holds a URL', found: code ?? message })
    // Something that is read as a URL, so that its absence is not a second problem.
    set(source.tree, path, path === 'redis.url' ? 'redis://unread' : 'postgres://unread/unread')
  }
}

export function get(tree: Tree, path: string): unknown {
  let value: unknown = tree
  for (const key of path.split('.')) {
    if (!isTree(value) || !Object.hasOwn(value, key)) return undefined
    value = value[key]
  }
  return value
}

/** False where something else than a mapping is in the way: the schema refuses that, under its own name. */
function set(tree: Tree, path: string, value: unknown): boolean {
  const keys = path.split('.')
  const last = keys.pop() as string
  let inner = tree
  for (const key of keys) {
    if (value === undefined && inner[key] == null) return false
    inner[key] ??= {}
    const next = inner[key]
    if (!isTree(next)) return false
    inner = next
  }
  if (value === undefined) delete inner[last]
  else inner[last] = value
  return true
}

const isTree = (value: unknown): value is Tree => typeof value === 'object' && value !== null && !Array.isArray(value)
