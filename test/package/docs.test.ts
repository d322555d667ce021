import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { basename, dirname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import manifest from '../../package.json' with { type: 'json' }

const root = fileURLToPath(new URL('../..', import.meta.url))
const listed = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], { cwd: root })
const files = listed
  .toString()
  .split('\0')
  .filter((file) => file && existsSync(join(root, file)))
const pages = files.filter((file) => file.endsWith('.md'))

const textOf = (page: string): string => readFileSync(join(root, page), 'utf8')

/** The first group of each match in each page. */
function* mentions(pattern: RegExp): Generator<{ page: string; mention: string }> {
  for (const page of pages) {
    for (const [, mention = ''] of textOf(page).matchAll(pattern)) yield { page, mention }
  }
}

/** The anchors that GitHub gives to the headings of a page. */
const anchorsOf = (page: string): string[] =>
  [...textOf(page).matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  )

/** Whether a path of the repository names a file, or a folder of files; `*` stands for any characters but a slash. */
function isThere(path: string): boolean {
  const escaped = path.replace(/\/$/, '').replace(/[.+?^$()[\]{}|\\]/g, '\\$&')
  const pattern = new RegExp(`^${escaped.replaceAll('*', '[^/]*')}(/|$)`)
  return files.some((file) => pattern.test(file))
}

test('every relative link of a page leads to a file or a folder, and its anchor to a heading', () => {
  const broken: string[] = []
  let count = 0
  for (const { page, mention } of mentions(/\]\((?![a-z]+:)([^)\s]+)\)/g)) {
    count++
    const [path, anchor] = mention.split('#') as [string, string?]
    const target = path === '' ? page : normalize(join(dirname(page), path))
    const holds = isThere(target) && (anchor === undefined || anchorsOf(target).includes(anchor))
    if (!holds) broken.push(`${page}: ${mention}`)
  }
  expect(broken).toEqual([])
  expect(count).toBeGreaterThan(50)
})

test('every page of docs/ is in the index, and every decision in its own', () => {
  for (const index of ['docs/README.md', 'docs/adr/README.md']) {
    const folder = dirname(index)
    const own = pages.filter((page) => dirname(page) === folder && page !== index)
    const missing = own.filter((page) => !textOf(index).includes(`](${basename(page)}`))
    expect(missing, index).toEqual([])
    expect(own.length).toBeGreaterThan(5)
  }
})

test('every path of the repository that a page names in backticks is there', () => {
  const paths = /`((?:bench|charts|docs|examples|scripts|src|test|testkit)\/[^`\s]*|\.ci\/[^`\s]*)`/g
  const broken = [...mentions(paths)].filter(({ mention }) => !isThere(mention))
  expect(broken).toEqual([])
})

test('every test that a page names by its file alone is there', () => {
  const names = new Set(files.map((file) => basename(file)))
  const broken = [...mentions(/`([\w.-]+\.test\.ts)`/g)].filter(({ mention }) => !names.has(mention))
  expect(broken).toEqual([])
})

test('every script that a page runs is in package.json', () => {
  const broken = [...mentions(/npm run ([\w:]+)/g)].filter(({ mention }) => !Object.hasOwn(manifest.scripts, mention))
  expect(broken).toEqual([])
})

test('every variable of the tests that a page names is read by them', () => {
  const source = files
    .filter((file) => /^(test|testkit|scripts)\/.*\.ts$/.test(file))
    .map(textOf)
    .join('\n')
  const broken = [...mentions(/(OUTRIDER_TEST_\w+)/g)].filter(({ mention }) => !source.includes(`env.${mention}`))
  expect(broken).toEqual([])
})
