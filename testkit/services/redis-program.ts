import { execFileSync } from 'node:child_process'
import { delimiter, join } from 'node:path'

export type ServerProgram = 'redis-server' | 'valkey-server'

/** A server on the PATH, by what it says of itself: packages of Valkey install it as `redis-server`, too. */
export interface FoundServer {
  folder: string
  name: 'Redis' | 'Valkey'
  release: { major: number; minor: number; text: string }
}

/** In the order of the PATH; what does not run, or says no version, is left out. */
export function foundServers(program: ServerProgram): FoundServer[] {
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '')
  return folders.flatMap((folder) => {
    const said = versionSaid(join(folder, program))
    const found = /^(Redis|Valkey) server v=((\d+)\.(\d+)\S*)/.exec(said)
    if (!found) return []
    const [, name, text = '', major, minor] = found
    return [
      {
        folder,
        name: name === 'Valkey' ? name : 'Redis',
        release: { major: Number(major), minor: Number(minor), text },
      },
    ]
  })
}

/** What the README requires: Redis 7.0 or later, or Valkey 8 or later. */
export function isSupported({ name, release }: FoundServer): boolean {
  return release.major >= (name === 'Valkey' ? 8 : 7)
}

const said = new Map<string, string>()

/** Asked once: tests start servers by the hundred. */
function versionSaid(path: string): string {
  const known = said.get(path)
  if (known !== undefined) return known
  let answer = ''
  try {
    answer = execFileSync(path, ['--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  } catch {
    // Not there, or not for this machine.
  }
  said.set(path, answer)
  return answer
}
