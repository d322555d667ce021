import type pg from 'pg'

/**
 * Who holds locks of Outrider's own table or of its partitions, for a person; with `incidents` also who keeps incidents from being locked
 * in share mode. Locks are visible to all; what another role's session does is not.
 */
export async function lockHolders(client: pg.ClientBase, { incidents = false } = {}): Promise<string> {
  const { rows } = await client.query<{ what: string }>(
    `select distinct case when gid is not null
         then format('prepared transaction %s (open for %s)', gid, date_trunc('second', clock_timestamp() - prepared))
         else format('pid %s (%s, transaction open for %s)', pid, coalesce(nullif(application_name, ''), usename, 'unknown'),
           coalesce(date_trunc('second', clock_timestamp() - xact_start)::text, 'unknown'))
       end as what
     from pg_locks as l
     left join pg_stat_activity using (pid)
     left join pg_prepared_xacts as p on l.pid is null and l.virtualtransaction = '-1/' || p.transaction
     where locktype = 'relation' and granted and l.pid is distinct from pg_backend_pid()
       and l.database = (select oid from pg_database where datname = current_database())
       and (l.relation in (select unnest(array[oid, reltoastrelid]) from pg_partition_tree('outrider.outbox') join pg_class on oid = relid)
         or $1 and l.relation = 'outrider.incident'::regclass and mode not in ('AccessShareLock', 'RowShareLock', 'ShareLock'))`,
    [incidents],
  )
  return rows.map(({ what }) => what).join('; ') || 'nothing any more'
}
