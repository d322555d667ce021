/**
 * blocker  the relay cannot run, loses its guarantee, or endangers the server it reads from
 * warning  it runs, and one foreseeable fault would hurt
 * info     worth knowing; nothing to do
 */
export type FindingLevel = 'blocker' | 'warning' | 'info'

/** One way to fix a finding. */
export interface Fix {
  /** Where the text goes, and what has to follow: `In SQL, as an administrator, then restart Postgres`. */
  how: string
  /** To be copied as it is: statements, a setting, a command; several are several lines. */
  text: string
}

export interface Finding {
  level: FindingLevel
  /** Stable: for scripts that look for one, and for a switch that raises its level. */
  id: string
  is: string
  expected: string
  /** Half a sentence. */
  why: string
  /** In the order in which they are to be done; empty for what needs nothing. */
  fix: Fix[]
}

/** A finding without its level, which depends on the circumstances. */
export type Assessment = Omit<Finding, 'level'>

export const blocker = (finding: Assessment): Finding => ({ level: 'blocker', ...finding })
export const warning = (finding: Assessment): Finding => ({ level: 'warning', ...finding })
export const info = (finding: Omit<Assessment, 'expected' | 'fix'>): Finding => ({
  level: 'info',
  ...finding,
  expected: finding.is,
  fix: [],
})

export const isBlocker = ({ level }: Finding): boolean => level === 'blocker'

/** What has to be fixed or decided. */
export const isOpen = ({ level }: Finding): boolean => level !== 'info'

export const onShell = (text: string, then = ''): Fix => ({ how: `On the command line${then}`, text })
export const inSql = (text: string): Fix => ({ how: 'In SQL, as the owner of the tables; the rows stay in them', text })
export const inConfiguration = (text: string): Fix => ({ how: "In Outrider's configuration", text })

export const SETUP = onShell('outrider setup', ', as the role that owns the schema')
export const ADOPT = onShell('outrider adopt', ', as the role that owns the schema; it shows what it found, and asks')
export const INCIDENTS = onShell('outrider incidents')
