import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * Finds phrases of scripts/words.txt: in pages and YAML everywhere but in code, in sources in texts of more than one word. Fails on
 * one in a file of CLEAN; with --all it counts them in all pages and sources, and does not fail.
 */

const ROOT = fileURLToPath(new URL('..', import.meta.url))

/** Files and folders without such a phrase. Add a path once it is clean. */
const CLEAN = [
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  'README.md',
  'SECURITY.md',
  'charts',
  'docs',
  'examples',
  'findings',
  'scripts',
  'src',
]

interface Phrase {
  pattern: RegExp
  instead: string
}

const phrases: Phrase[] = readFileSync(join(ROOT, 'scripts/words.txt'), 'utf8')
  .split('\n')
  .filter((line) => line !== '' && !line.startsWith('#'))
  .map((line) => {
    const [pattern = '', instead] = line.split('\t')
    if (!instead)
      throw new Error(`Expected a pattern, a tab and what to say instead in scripts/words.txt, found: ${line}`)
    // Phrases are written in lower case, and stand at the beginning of a sentence, too; `What` and `Of` only there.
    return { pattern: new RegExp(pattern, pattern.includes('What') ? '' : 'i'), instead }
  })

function filesBelow(path: string): string[] {
  if (/\.\w+$/.test(path)) return [path]
  return readdirSync(join(ROOT, path), { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.(md|ts|yaml|tpl)$/.test(file) && !file.endsWith('.test.ts'))
    .map((file) => join(path, file))
}

/** The lines of a file as people read them: of a source its texts alone, of a page all but code. */
function proseOf(file: string): string[] {
  const lines = readFileSync(join(ROOT, file), 'utf8').split('\n')
  if (file.endsWith('.ts')) {
    return lines.map((line) => {
      const code = line.replace(/^\s*(\/\/|\/?\*).*$/, '').replace(/\s\/\/ .*$/, '')
      const texts = [...code.matchAll(/'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|`((?:[^`\\]|\\.)*)/g)]
      return texts
        .map((text) => text[1] ?? text[2] ?? (text[3] ?? '').replaceAll(/\$\{[^}]*\}?/g, ''))
        .filter((text) => text.includes(' '))
        .join(' | ')
    })
  }
  let isCode = false
  return lines.map((line) => {
    if (line.startsWith('```')) isCode = !isCode
    return isCode ? '' : line.replaceAll(/`[^`]*`|\]\([^)]*\)/g, '')
  })
}

function findPhrases(file: string): string[] {
  return proseOf(file).flatMap((line, index) =>
    phrases.flatMap(({ pattern, instead }) => {
      const [found] = pattern.exec(line) ?? []
      return found === undefined ? [] : [`${file}:${index + 1}: "${found.trim()}": say ${instead}`]
    }),
  )
}

if (process.argv.includes('--all')) {
  const files = [
    'README.md',
    'CONTRIBUTING.md',
    'CHANGELOG.md',
    'SECURITY.md',
    'docs',
    'charts',
    'examples',
    'findings',
    'src',
  ]
  for (const file of files.flatMap(filesBelow).sort()) {
    const found = findPhrases(file)
    if (process.argv.includes('--lines')) for (const line of found) console.log(line)
    else if (found.length > 0) console.log(`${String(found.length).padStart(5)}  ${file}`)
  }
} else {
  const found = CLEAN.flatMap(filesBelow).flatMap(findPhrases)
  for (const line of found) console.error(line)
  process.exit(found.length === 0 ? 0 : 1)
}
