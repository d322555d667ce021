import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { classifyPostgres } from './errors.js'

describe('an error of Postgres', () => {
  it.each([
    ['55006', 'slot_active', 'replication slot "outrider_shop" is active for PID 4711'],
    ['57P01', 'postgres_shutdown', 'terminating connection due to administrator command'],
    ['57P02', 'postgres_shutdown', 'terminating connection because of crash of another server process'],
    ['57P03', 'postgres_starting', 'the database system is starting up'],
    ['57014', 'postgres_timeout', 'canceling statement due to statement timeout'],
    ['25P03', 'postgres_timeout', 'terminating connection due to idle-in-transaction timeout'],
    ['25P04', 'postgres_timeout', 'terminating connection due to transaction timeout'],
    ['55P03', 'postgres_lock_timeout', 'canceling statement due to lock timeout'],
    ['25006', 'postgres_read_only', 'cannot execute INSERT in a read-only transaction'],
    ['08P01', 'postgres_unreachable', 'invalid message format'],
    ['08006', 'postgres_unreachable', 'could not receive data'],
    ['28P01', 'postgres_credentials', 'password authentication failed for user "outrider"'],
    ['28000', 'postgres_credentials', 'no pg_hba.conf entry for replication connection'],
    ['40001', 'postgres_conflict', 'could not serialize access'],
    ['40P01', 'postgres_conflict', 'deadlock detected'],
    ['53100', 'postgres_resources', 'could not extend file: No space left on device'],
    ['53200', 'postgres_resources', 'out of memory'],
    ['53300', 'postgres_resources', 'sorry, too many clients already'],
    ['57P05', 'postgres_shutdown', 'terminating connection due to idle-session timeout'],
    ['58030', 'postgres_io', 'could not read file'],
  ])('%s is tried again as %s: %s', (code, reason) => {
    expect(classifyPostgres(code)).toEqual({ policy: 'retry', reason })
  })

  it.each([
    ['42501', 'postgres_privilege', 'permission denied for table outbox'],
    ['42704', 'postgres_object_missing', 'replication slot "outrider_shop" does not exist'],
    ['55000', 'postgres_not_ready', 'can no longer get changes from replication slot "outrider_shop"'],
    ['58P01', 'postgres_wal_removed', 'requested WAL segment has already been removed'],
    ['3D000', 'postgres_database_missing', 'database "shop" does not exist'],
    ['3F000', 'setup_missing', 'schema "outrider" does not exist'],
    ['42P01', 'setup_missing', 'relation "outrider.lineage" does not exist'],
    ['42703', 'setup_outdated', 'column "publication_state" does not exist'],
    ['42883', 'setup_outdated', 'function outrider.publication_state(text) does not exist'],
    ['XX000', 'postgres_internal', 'cache lookup failed'],
    ['XX001', 'postgres_internal', 'invalid page in block 3'],
    ['23505', 'postgres_unknown', 'duplicate key value violates unique constraint'],
    ['42601', 'postgres_unknown', 'syntax error at or near "selct"'],
    ['P0001', 'postgres_unknown', 'raised by a trigger of somebody'],
  ])('%s halts as %s: %s', (code, reason) => {
    expect(classifyPostgres(code)).toEqual({ policy: 'halt', reason })
  })

  it('without a code is a connection that just ended: "Connection terminated unexpectedly", "timeout expired"', () => {
    expect(classifyPostgres(undefined)).toEqual({ policy: 'retry', reason: 'postgres_unreachable' })
  })

  it.each([
    'ECONNREFUSED',
    'ECONNRESET',
    'EPIPE',
    'ETIMEDOUT',
    'ENOTFOUND',
    'EAI_AGAIN',
    'EHOSTUNREACH',
    'EPROTO',
    'ENOENT',
    'ERR_TLS_CERT_ALTNAME_INVALID',
    'ERR_SSL_WRONG_VERSION_NUMBER',
    'ERR_OSSL_X509_KEY_VALUES_MISMATCH',
    'ERR_SOCKET_CLOSED_BEFORE_CONNECTION',
    'ERR_STREAM_DESTROYED',
    'ERR_STREAM_WRITE_AFTER_END',
    'CERT_HAS_EXPIRED',
    'DEPTH_ZERO_SELF_SIGNED_CERT',
    'SELF_SIGNED_CERT_IN_CHAIN',
    'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
    'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
    'HOSTNAME_MISMATCH',
    'INVALID_CA',
  ])('%s, of the socket or of TLS, is tried again', (code) => {
    expect(classifyPostgres(code)).toEqual({ policy: 'retry', reason: 'postgres_unreachable' })
  })

  it('that is not in the table halts, and nothing is found that the table does not hold', () => {
    const unknown = { policy: 'halt', reason: 'postgres_unknown' }
    for (const code of [
      '',
      'constructor',
      'toString',
      'ERR_INVALID_ARG_TYPE',
      'ERR_ASSERTION',
      'XX',
      '0800',
      '080060',
    ]) {
      expect(classifyPostgres(code)).toEqual(unknown)
    }
    // No class of SQLSTATEs begins so.
    fc.assert(
      fc.property(fc.stringMatching(/^[6-9][0-9]{4}$/), (code) => {
        expect(classifyPostgres(code)).toEqual(unknown)
      }),
    )
  })
})
