import { crc32 } from 'node:zlib'

/** Which of a stream's partitions an event goes to: by its subject, or by its id where it has none. */
export const partitionOf = (subjectOrId: string | Uint8Array, count: number): number => crc32(subjectOrId) % count
