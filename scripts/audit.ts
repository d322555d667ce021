import { spawnSync } from 'node:child_process'

// `npm run audit`: known weaknesses of what is installed in production, from high on. A registry that has no list of them, as
// many mirrors have none, or that does not answer, is no reason to stop: that is said, and whoever builds a release asks another.

export interface Verdict {
  code: 0 | 1
  text: string
}

/** What `npm audit --json` has printed, judged. Pure. */
export function judgeAudit(output: string): Verdict {
  let report: Report
  try {
    report = JSON.parse(output) as Report
  } catch {
    return { code: 1, text: `Expected JSON from npm audit, found: ${output.slice(0, 500) || 'nothing'}` }
  }
  if (!report.vulnerabilities) {
    const said = report.message ?? report.error?.summary ?? 'nothing that is known'
    // What npm itself misses here, and no registry could answer.
    if (report.error?.code === 'ENOLOCK') return { code: 1, text: `npm audit could not be done: ${said}` }
    const answer = report.statusCode === undefined ? said : `it answered ${report.statusCode}: ${said}`
    return {
      code: 0,
      text: `SKIPPED: the registry gave no audit (${answer}). Before a release, audit against one that does.`,
    }
  }
  const found = Object.values(report.vulnerabilities).filter(
    ({ severity }) => severity === 'high' || severity === 'critical',
  )
  const lines = found.map(({ name, severity, range, fixAvailable }) => {
    return `${severity}: ${name} ${range}. ${fixAvailable ? 'npm audit fix' : 'No fix is known: find another package.'}`
  })
  if (lines.length > 0) return { code: 1, text: lines.join('\n') }
  return { code: 0, text: 'No weakness from high on is known in production dependencies.' }
}

interface Report {
  statusCode?: number
  message?: string
  error?: { code?: string; summary?: string }
  vulnerabilities?: Record<string, { name: string; severity: string; range: string; fixAvailable: unknown }>
}

function main(): void {
  const { stdout, error } = spawnSync('npm', ['audit', '--omit=dev', '--json'], { encoding: 'utf8' })
  if (error) throw error
  const { code, text } = judgeAudit(stdout)
  const print = code === 0 ? console.log : console.error
  print(text)
  process.exitCode = code
}

if (process.argv[1] === import.meta.filename) main()
