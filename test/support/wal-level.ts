import { chosenVersion } from '../../testkit/services/postgres-binaries.js'

/** Settings under which the chosen Postgres cannot decode: from 19 on that takes `minimal`, which allows no WAL sender. */
export const TOO_LOW: Record<string, string> & { wal_level: string } =
  chosenVersion() >= 19 ? { wal_level: 'minimal', max_wal_senders: '0' } : { wal_level: 'replica' }

/** What a relay says of such a server. */
export const TOO_LOW_SAYS: [reason: string, message: RegExp] =
  chosenVersion() >= 19 ? ['postgres_resources', /Set wal_level = logical/] : ['setup_interrupted', /outrider setup/]
