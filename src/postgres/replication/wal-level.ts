/** What a server says of its WAL. */
export interface WalLevel {
  /** As `server_version_num`. */
  version: number
  /** The setting `wal_level`. */
  configured: string
  /** `effective_wal_level`, which PostgreSQL 19 and later have: the level in force. */
  effective: string | undefined
}

/**
 * Whether a logical slot can be created and read. From PostgreSQL 19 on `replica` is enough: the server raises the level
 * in force to `logical` while it has a logical slot.
 * https://www.postgresql.org/docs/19/runtime-config-preset.html#GUC-EFFECTIVE-WAL-LEVEL
 */
export function canDecode({ version, configured, effective = configured }: WalLevel): boolean {
  return effective === 'logical' || (version >= 190_000 && configured === 'replica')
}

/** The levels that this version can decode from, for messages. */
export function decodableLevels(version: number): string {
  return version >= 190_000 ? 'replica or logical' : 'logical'
}
