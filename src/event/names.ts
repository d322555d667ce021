/** What a row's `stream` must look like; the same rule stands as a constraint in `sql/001-outbox.sql`. */
export const STREAM_NAME = /^(?!outrider)[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/

/** The id of an event in Outrider's own table. */
export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** A header's name: a CloudEvents extension attribute. The same rule stands in `sql/001-outbox.sql`. */
export const HEADER_NAME = /^[a-z0-9]{1,40}$/

/** The attributes that Outrider writes itself; a header must not bear one of these names. */
export const ATTRIBUTES: ReadonlySet<string> = new Set([
  'specversion',
  'id',
  'source',
  'type',
  'subject',
  'time',
  'datacontenttype',
  'dataschema',
  'schemaversion',
  'correlationid',
  'causationid',
  'sequence',
  'data',
  'deadreason',
  'deaderror',
  'deadattempts',
  'deadtime',
  'deadentry',
])

/** The Redis key of a stream: its name, with `:N` behind it where it is partitioned. */
export const streamKey = (stream: string, partition?: number): string =>
  partition === undefined ? stream : `${stream}:${partition}`

/** The stream of a key that `streamKey` made. */
export const streamOf = (key: string): string => key.split(':', 1)[0] as string

/** The hash that holds the head of one lineage in one stream. Every own key of a stream has the stream key as its hash tag: one Cluster slot. */
export const headKey = (streamKey: string, lineage: string): string => `outrider:{${streamKey}}:head:${lineage}`

/** The hash that holds what each lineage that publishes to a stream keeps of it: none trims more. */
export const policyKey = (streamKey: string): string => `outrider:{${streamKey}}:policy`

/** The string that the leading relay of a lineage renews, and that expires when it ends: see src/relay/sink/alive-key.ts. */
export const aliveKey = (lineage: string): string => `outrider:{${lineage}}:alive`

/** The string that holds the number of partitions of a partitioned stream, for consumers. */
export const partitionsKey = (stream: string): string => `outrider:{${stream}}:partitions`

/** What a consumer group may be called: it is part of keys and a label of metrics. */
export const GROUP_NAME = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$/

/** The stream of a group's dead letters. */
export const deadKey = (streamKey: string, group: string): string => `outrider:{${streamKey}}:dead:${group}`

/** The stream of the ids of a group's dead letters that were put back into their stream. */
export const replayedKey = (streamKey: string, group: string): string => `outrider:{${streamKey}}:replayed:${group}`

/** The stream of what a group has set aside until its next attempt. The names of its fields that a header cannot have are its own. */
export const waitingKey = (streamKey: string, group: string): string => `outrider:{${streamKey}}:waiting:${group}`

/** The sorted set of its entries by the time of their next attempt, in milliseconds. */
export const waitingDueKey = (streamKey: string, group: string): string =>
  `outrider:{${streamKey}}:waiting-due:${group}`

/** The sorted set of its entries by the time at which their event failed first, in milliseconds; without those that never failed. */
export const waitingSinceKey = (streamKey: string, group: string): string =>
  `outrider:{${streamKey}}:waiting-since:${group}`

/** The hash of failed attempts of what is taken from it: as `retriesKey` for the stream itself. */
export const waitingRetriesKey = (streamKey: string, group: string): string =>
  `outrider:{${streamKey}}:waiting-retries:${group}`

/** The hash of a group's failed attempts, by entry: only entries that failed and are still pending have a field. */
export const retriesKey = (streamKey: string, group: string): string => `outrider:{${streamKey}}:retries:${group}`

/** The string that holds the highest epoch that an ordered group's stream was leased with: see sql/004-inbox.sql. */
export const fenceKey = (streamKey: string, group: string): string => `outrider:{${streamKey}}:fence:${group}`
