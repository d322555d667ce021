import { defaultServes, type Migration } from '../setup/migration.js'

/** A migration as it was applied: a row of `outrider.migration`. */
export interface Applied {
  version: number
  name: string
  checksum: string
  serves: number
}

/** Runs a statement; its rows. */
type Ask = (sql: string) => Promise<object[]>

/** What was applied, in order; undefined where nothing ever was. */
export async function readHistory(ask: Ask): Promise<Applied[] | undefined> {
  const [found] = (await ask("select to_regclass('outrider.migration') is not null as there")) as [{ there: boolean }]
  if (!found.there) return undefined
  // As JSON, so that a table from before the column does not mind the question.
  const rows = (await ask(
    `select version, name, checksum, (to_jsonb(m) ->> 'serves')::integer as serves
     from outrider.migration as m order by version`,
  )) as (Omit<Applied, 'serves'> & { serves: number | null })[]
  return rows.map(({ serves, ...row }) => ({ ...row, serves: serves ?? defaultServes(row.version) }))
}

/** Why a version may not work with a schema. */
export interface Foreign {
  expected: string
  found: string
  advice: string
}

export interface HistoryClass {
  foreign: Foreign | undefined
  /** Names of what a newer version has applied, and this one can work with. */
  newer: string[]
  /** Names of what this version still has to apply. */
  missing: string[]
}

/**
 * What a version that knows these migrations may do with a schema. It may work with a newer one as long as every migration
 * that it does not know says that it serves it. Pure.
 */
export function classifyHistory(applied: readonly Applied[], known: readonly Migration[]): HistoryClass {
  const ours = new Map(known.map((migration) => [migration.version, migration]))
  const theirs = new Set(applied.map(({ version }) => version))
  const unknown = applied.filter(({ version }) => !ours.has(version))
  return {
    foreign: altered(applied, ours) ?? tooNew(applied, unknown, known),
    newer: unknown.map(({ name }) => name),
    missing: known.filter(({ version }) => !theirs.has(version)).map(({ name }) => name),
  }
}

export const describeForeign = ({ expected, found, advice }: Foreign): string =>
  `Expected ${expected}, found ${found}. ${advice}`

function altered(applied: readonly Applied[], ours: ReadonlyMap<number, Migration>): Foreign | undefined {
  for (const { version, name, checksum } of applied) {
    const own = ours.get(version)
    if (!own || own.checksum === checksum) continue
    return {
      expected: `migration ${own.name} as this version of Outrider has it (SHA-256 ${own.checksum.slice(0, 12)}…)`,
      found: `that ${name} was applied with another content (${checksum.slice(0, 12)}…)`,
      advice:
        'Use the release that set up this database, or compare its sql/ folder with the schema before you continue.',
    }
  }
  return undefined
}

function tooNew(
  applied: readonly Applied[],
  unknown: readonly Applied[],
  known: readonly Migration[],
): Foreign | undefined {
  const newest = known.at(-1)
  const [strictest] = [...unknown].sort((one, other) => other.serves - one.serves)
  if (!strictest || strictest.serves <= (newest?.version ?? 0)) return undefined
  const least =
    applied.find(({ version }) => version === strictest.serves)?.name ?? String(strictest.serves).padStart(3, '0')
  return {
    expected: `a schema that this version of Outrider can work with (it knows migrations up to ${newest?.name})`,
    found: `migration ${strictest.name}, which serves only versions that know ${least}`,
    advice: `This database was set up by a newer version, and a schema is not taken back: use that one, or any that knows ${least}.`,
  }
}
