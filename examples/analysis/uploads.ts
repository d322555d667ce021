import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { publish } from 'outrider'
import type pg from 'pg'
import { inTransaction } from '../service.js'
import { FileUploaded } from './events.js'

/** Where files are: a folder here, a bucket of objects in earnest. Files are written once and never changed. */
export type Store = string

/** What is said of a file. */
export interface Stored {
  file: string
  bytes: number
  sha256: string
}

/** Stores the content first, then says so: no event refers to what is not there. */
export async function upload(client: pg.Client, store: Store, file: string, content: string): Promise<void> {
  await announce(client, await put(store, file, content))
}

export async function put(store: Store, file: string, content: string): Promise<Stored> {
  await writeFile(join(store, file), content)
  return { file, bytes: Buffer.byteLength(content), sha256: createHash('sha256').update(content).digest('hex') }
}

export function announce(client: pg.Client, { file, bytes, sha256 }: Stored): Promise<void> {
  return inTransaction(client, async () => {
    await client.query('insert into upload (file, bytes, sha256) values ($1, $2, $3)', [file, bytes, sha256])
    await publish(client, FileUploaded, { subject: file, data: { file, bytes, sha256 } })
  })
}
