import type pg from 'pg'
import { ExitCode, OutriderError } from '../../base/failure.js'

/**
 * Records the number of partitions of streams, which is fixed for the life of a stream's name: with another number, the
 * events of one subject would continue in another partition, out of order. Returns the streams that are new.
 */
export async function fixPartitions(client: pg.ClientBase, configured: ReadonlyMap<string, number>): Promise<string[]> {
  const streams = [...configured.keys()]
  const fixed = await client.query<{ stream: string; partitions: number }>(
    'select stream, partitions from outrider.stream where stream = any ($1)',
    [streams],
  )
  for (const { stream, partitions } of fixed.rows) {
    if (partitions !== configured.get(stream)) {
      throw refuse(stream, `${partitions}, fixed when it was set up`, configured.get(stream))
    }
  }
  const published = await client.query<{ stream: string }>(
    'select distinct stream_key as stream from outrider.head where stream_key = any ($1)',
    [streams],
  )
  for (const { stream } of published.rows) {
    throw refuse(stream, 'that it was published without partitions', configured.get(stream))
  }
  const added = await client.query<{ stream: string }>(
    `insert into outrider.stream (stream, partitions) select * from unnest($1::text[], $2::integer[])
     on conflict do nothing returning stream`,
    [streams, [...configured.values()]],
  )
  return added.rows.map(({ stream }) => stream).sort()
}

function refuse(stream: string, found: string, configured: number | undefined): OutriderError {
  return new OutriderError(
    `streams.${stream}.partitions: found ${found}, and ${configured} in the configuration. The number is fixed for the life of ` +
      'the name, because another one would break the order of subjects. Restore it, or give the stream a new name.',
    { exitCode: ExitCode.usage },
  )
}

/** The number of partitions of each partitioned stream. */
export async function readPartitions(client: pg.ClientBase): Promise<Record<string, number>> {
  const { rows } = await client.query('select stream, partitions from outrider.stream')
  return Object.fromEntries(rows.map(({ stream, partitions }) => [stream, partitions]))
}
