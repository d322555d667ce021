import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { readMigrations } from './migration.js'

let folder: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'outrider-sql-'))
})

afterEach(() => rm(folder, { recursive: true }))

async function read(files: Record<string, string>) {
  for (const [name, sql] of Object.entries(files)) await writeFile(join(folder, name), sql)
  return readMigrations(pathToFileURL(`${folder}/`))
}

test('a migration serves what its first line says, else one version back', async () => {
  const found = await read({
    '005-one.sql': 'select 1;\n-- serves: 001\n',
    '006-two.sql': '-- serves: 003\r\nselect 1;\r\n',
    '007-three.sql': '-- What it serves is not said.\nselect 1;\n',
    '008-four.sql': '-- serves: 007',
    'readme.md': '',
  })
  expect(found.map(({ name, serves }) => [name, serves])).toEqual([
    ['005-one', 4],
    ['006-two', 3],
    ['007-three', 6],
    ['008-four', 7],
  ])
})

test.each([
  '-- serves: 7',
  '-- serves: 007',
  '-- serves 004',
  '--serves: 004',
  '-- Serves: 004',
  '-- serves: 004 and more',
])('a first line that may be meant so, %s, is refused', async (line) => {
  await expect(read({ '007-three.sql': `${line}\nselect 1;\n` })).rejects.toThrow(
    `007-three.sql: expected "-- serves: " and the three digits of an earlier migration in the first line, found "${line}"`,
  )
})

test('the checksum is the same whatever ends the lines', async () => {
  const [unix] = await read({ '001-one.sql': 'select 1;\nselect 2;\n' })
  const [dos] = await read({ '001-one.sql': 'select 1;\r\nselect 2;\r\n' })
  expect(dos).toEqual(unix)
})
