import { readFile } from 'node:fs/promises'
import { ExitCode, OutriderError } from './failure.js'

/**
 * A password, or where to find it. A file is read again for each connection, so that a rotated secret is picked up
 * without a restart. `part: 'url'` means that the file holds a whole URL, of which the password is wanted.
 */
export type Secret = { value: string } | { file: string; part?: 'url' }

/** Reads a secret. A last line break, which editors and `echo` leave behind, is not part of it. */
export async function readSecret(secret: Secret): Promise<string> {
  if ('value' in secret) return secret.value
  const text = withoutLastBreak(await readConfiguredFile(secret.file, 'a secret'))
  return secret.part === 'url' ? passwordOf(text, secret.file) : text
}

/** Reads a file that the configuration names; `what` says what it was to hold. */
export async function readConfiguredFile(file: string, what: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'unreadable'
    throw new OutriderError(
      `Expected a readable file with ${what} at ${file}, found ${code}. Check the path and its mode.`,
      {
        exitCode: ExitCode.usage,
        cause: error,
      },
    )
  }
}

export const withoutLastBreak = (text: string): string => text.replace(/\r?\n$/, '')

function passwordOf(url: string, file: string): string {
  const parsed = URL.canParse(url) ? new URL(url) : undefined
  const password = parsed?.password || parsed?.searchParams.get('password')
  if (password) return decodeURIComponent(password)
  throw new OutriderError(`Expected a URL with a password in ${file}, found none. Check what has been written there.`, {
    exitCode: ExitCode.usage,
  })
}

/**
 * A URL that may be shown: without its password, and without parameters that sound like one. What cannot be told
 * apart is left out as a whole, because a password pasted into the wrong place must not be shown either.
 */
export function maskUrl(url: string): string {
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(url)
  if (!scheme) return `(hidden, ${url.length} characters)`
  const rest = url.slice(scheme[0].length)
  const at = rest.lastIndexOf('@')
  const user = at < 0 ? '' : `${/^[\w.-]*/.exec(rest)?.[0] ?? ''}:***@`
  const bare = at < 0 ? rest : rest.slice(at + 1)
  return scheme[0] + user + bare.replace(/([?&][^=&]*(?:pass|secret|key|token)[^=&]*=)[^&]*/gi, '$1***')
}

/** Takes passwords out of every URL in a text, but leaves the word that stands for one in our own examples. */
export const maskUrlsIn = (text: string): string => (text.includes('://') ? text.replace(CREDENTIALS, '$1:***@') : text)

/** The scheme is bounded, because a search that may begin anywhere in a long word takes the square of its length. */
const CREDENTIALS = /([a-z][a-z0-9+.-]{0,30}:\/\/[^\s:@/"'?#]*):(?!password@)(?:[^\s"]|\\")*@/gi
