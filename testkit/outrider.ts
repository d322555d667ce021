import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

/** The built command line. */
export const MAIN = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))

/** Exit code of a command that has findings, which is no failure. */
const FINDINGS = 4

/** Runs a command of the built command line to its end; what it prints. */
export async function outrider(args: readonly string[], variables: Record<string, string>): Promise<string> {
  try {
    return (await promisify(execFile)(process.execPath, [MAIN, ...args], { env: { ...process.env, ...variables } }))
      .stdout
  } catch (error) {
    const { code, stdout, stderr } = error as { code?: number; stdout: string; stderr: string }
    if (code === FINDINGS) return stdout
    throw new Error(`Expected \`outrider ${args.join(' ')}\` to succeed, it printed:\n${stderr.trim()}`, {
      cause: error,
    })
  }
}
