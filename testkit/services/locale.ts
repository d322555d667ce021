import { execFile } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { hasApt, unpackDebian } from './debian.js'
import { cached } from './folder.js'
import { redisHost } from './redis-binaries.js'

const name = 'da_DK.UTF-8'

/**
 * The environment in which a local server sorts as Danish does ("aa" after "z"), or undefined, with the reason
 * printed, where no such locale can be made. For `startRedis({ env })`; a container has its own locales.
 */
export async function daDK(): Promise<Record<string, string> | undefined> {
  try {
    if (process.platform !== 'linux') throw new Error(`locales are made on Linux only, this is ${process.platform}`)
    if (!(await redisHost()).isLocal) throw new Error('Redis runs in a container, which has its own locales')
    const folder = await cached('locale-da-DK', makeLocale)
    return { LOCPATH: folder, LC_ALL: name, LC_COLLATE: name }
  } catch (error) {
    console.warn(`no locale ${name}: ${(error as Error).message}`)
    return undefined
  }
}

async function makeLocale(folder: string): Promise<void> {
  let sources = '/usr/share/i18n'
  const unpacked = join(folder, '.locales')
  if (!existsSync(join(sources, 'locales/da_DK'))) {
    if (!hasApt())
      throw new Error('its source is not installed, and there is no apt-get to fetch the package "locales"')
    await unpackDebian(['locales'], unpacked)
    sources = join(unpacked, 'usr/share/i18n')
  }
  const env = { ...process.env, I18NPATH: sources }
  await promisify(execFile)('localedef', ['-i', 'da_DK', '-f', 'UTF-8', join(folder, name)], { env })
  rmSync(unpacked, { recursive: true, force: true })
}
