import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'

const FOLDER = new URL('../../../sql/', import.meta.url)
const FILE_NAME = /^(\d{3})-([a-z-]+)\.sql$/
const SERVES = /^-- serves: (\d{3})$/

/** A file of sql/. */
export interface Migration {
  version: number
  /** The file's name without its extension: `001-outbox`. */
  name: string
  sql: string
  checksum: string
  /** Whoever knows the migrations up to this one can work with the schema as this one leaves it. */
  serves: number
}

/** The migrations of this version of Outrider, in order. */
export async function readMigrations(folder: URL = FOLDER): Promise<Migration[]> {
  const files = (await readdir(folder)).filter((file) => FILE_NAME.test(file)).sort()
  return Promise.all(
    files.map(async (file) => {
      const sql = (await readFile(new URL(file, folder), 'utf8')).replaceAll('\r\n', '\n')
      const version = Number(file.slice(0, 3))
      return {
        version,
        name: file.slice(0, -'.sql'.length),
        sql,
        checksum: createHash('sha256').update(sql).digest('hex'),
        serves: readServes(file, sql, version),
      }
    }),
  )
}

/** Without a word about it: one version back. */
export const defaultServes = (version: number): number => version - 1

/** The first line may say it: `-- serves: 004`. */
function readServes(file: string, sql: string, version: number): number {
  const [line = ''] = sql.split('\n', 1)
  if (!/^--\s*serves\b/i.test(line)) return defaultServes(version)
  const number = SERVES.exec(line)?.[1]
  if (number !== undefined && Number(number) < version) return Number(number)
  throw new Error(
    `${file}: expected "-- serves: " and the three digits of an earlier migration in the first line, found "${line}".`,
  )
}
