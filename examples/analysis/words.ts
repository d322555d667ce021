import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'

export interface Words {
  words: number
  distinct: number
  /** The checksum of the bytes that were counted. */
  sha256: string
}

const CHUNK_BYTES = 4_096
/** A pause after each chunk, in milliseconds. It simulates a slow analysis. */
const CHUNK_TAKES = 100

/** Counts the words of a file of any size, chunk by chunk. Rejects when the signal is aborted. */
export async function countWords(path: string, signal: AbortSignal): Promise<Words> {
  const hash = createHash('sha256')
  const decoder = new TextDecoder()
  const seen = new Set<string>()
  let words = 0
  let cut = ''
  const count = (found: string[]) => {
    for (const word of found.filter(Boolean)) {
      words += 1
      seen.add(word.toLowerCase())
    }
  }
  for await (const chunk of createReadStream(path, { signal, highWaterMark: CHUNK_BYTES })) {
    hash.update(chunk)
    const found = (cut + decoder.decode(chunk, { stream: true })).split(/\s+/)
    // The last word may continue in the next chunk.
    cut = found.pop() ?? ''
    count(found)
    await pause(CHUNK_TAKES, undefined, { signal })
  }
  count([cut + decoder.decode()])
  return { words, distinct: seen.size, sha256: hash.digest('hex') }
}
