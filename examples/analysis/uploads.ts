import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { publish } from 'outrider'
import type pg from 'pg'
import { inTransaction } from '../service.js'
import { FileUploaded } from './events.js'

/** The folder that stores the files. In production this would be an object store. Files are written once and never changed. */
export type Store = string

/** The data of an upload that the event contains. */
export interface Stored {
  file: string
  bytes: number
  sha256: string
}

/** Stores the content first, then publishes the event. So every event refers to a file that exists. */
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
