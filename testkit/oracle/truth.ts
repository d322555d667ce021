import { createHash } from 'node:crypto'
import type pg from 'pg'

/**
 * The truth beside the outbox: for every event a row in the same transaction, with its place in the order of commits of
 * its subject. What the table holds was committed, whatever the writer came to know of it.
 */
export async function createTruth(client: pg.ClientBase): Promise<void> {
  await client.query(`
    create table truth (
      event_id uuid primary key, writer int not null, counter int not null, stream text not null,
      subject text not null, subject_seq int not null, sha text not null
    );
    create table subject (name text primary key, seq int not null default 0);
  `)
}

export interface Truth {
  id: string
  writer: number
  counter: number
  stream: string
  subject: string
  subjectSeq: number
  sha: string
}

export async function readTruth(client: pg.ClientBase): Promise<Truth[]> {
  const { rows } = await client.query(
    `select event_id as id, writer, counter, stream, subject, subject_seq as "subjectSeq", sha from truth`,
  )
  return rows
}

export const shaOf = (payload: string): string => createHash('sha256').update(payload).digest('base64')
