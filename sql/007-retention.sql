-- serves: 004
-- Retention: 24 buckets in place of 8, and what empties one of them. Nothing here waits for a writer, or makes one wait: the new
-- partitions are attached under a lock that writers do not conflict with. `outrider setup` gives `bucket` its new default afterwards, in a
-- transaction of its own; until then rows go to the first eight as before, and no bucket is emptied. Versions 004 to 006 neither write
-- `bucket` nor read what is added here.

create function outrider.bucket_seconds() returns integer
language sql immutable parallel safe
return 14400;

comment on function outrider.bucket_seconds() is
  'Seconds for which inserts go to one bucket of outrider.outbox. `outrider setup` replaces it as `retention` needs.';

create function outrider.bucket() returns smallint
language sql volatile parallel safe
return ((extract(epoch from clock_timestamp())::bigint / outrider.bucket_seconds()) % 24)::smallint;

comment on function outrider.bucket() is 'The bucket of outrider.outbox that inserts go to now.';

-- Empty tables that nobody knows yet; they belong to the owner of the others, whoever runs this.
do $$
declare
  owner name := (select pg_catalog.pg_get_userbyid(relowner) from pg_catalog.pg_class where oid = 'outrider.outbox'::regclass);
begin
  for bucket in 8 .. 23 loop
    execute format('create table outrider.outbox_%s (like outrider.outbox including defaults including constraints)', bucket);
    if owner <> current_user then
      execute format('alter table outrider.outbox_%s owner to %I', bucket, owner);
    end if;
    execute format('revoke all on outrider.outbox_%s from public', bucket);
    execute format('alter table outrider.outbox attach partition outrider.outbox_%s for values in (%s)', bucket, bucket);
  end loop;
end
$$;

alter table outrider.lineage add column predates_retention boolean not null default false;

comment on column outrider.lineage.predates_retention is
  'Set up before there was retention. While one such lineage is known, retired or not, nothing is emptied unless `retention` is set.';

update outrider.lineage set predates_retention = true;

create table outrider.emptied (
  lineage uuid not null constraint emptied_pkey primary key references outrider.lineage,
  lsn pg_lsn not null,
  snapshot pg_snapshot not null,
  until timestamptz not null,
  emptied_at timestamptz not null default clock_timestamp()
);

comment on table outrider.emptied is 'How far the outbox has been emptied.';
comment on column outrider.emptied.lsn is 'Of the newest checkpoint of the lineage that a bucket was emptied by.';
comment on column outrider.emptied.snapshot is
  'Of that checkpoint: it sees every row that was emptied. A row that it does not see is still in the table.';
comment on column outrider.emptied.until is 'When that checkpoint was saved.';
comment on column outrider.emptied.emptied_at is 'When a bucket was emptied last.';

create index incident_only_copy on outrider.incident (event_id)
  where kind = 'rejected' and closed_at is null and detail ? 'omitted';

comment on index outrider.incident_only_copy is 'Rejected rows of which the outbox alone has the whole content.';

create function outrider.has_unproven(partition regclass, snapshot pg_snapshot) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_indexscan = off set enable_indexonlyscan = off set jit = off
set max_parallel_workers_per_gather = 0
-- By the index of inserting transactions alone, whatever the planner knows of the table.
as $$
declare
  xids xid8[] := array(select xid from pg_snapshot_xip(snapshot) as xid order by xid);
  has_row text := format('select exists (select from only %s where (txid::text)::bigint', partition);
  found_one boolean;
begin
  execute has_row || ' >= $1)' into found_one using pg_snapshot_xmax(snapshot)::text::bigint;
  -- Each question reads the whole index, so as few are asked as can be: all rows of an old bucket are older than what ran at the snapshot,
  -- but for a transaction that was prepared and forgotten.
  for n in 1 .. cardinality(xids) loop
    exit when found_one;
    if n > 1 then
      execute has_row || ' >= $1)' into found_one using xids[n]::text::bigint;
      exit when not found_one;
    end if;
    execute has_row || ' = $1)' into found_one using xids[n]::text::bigint;
  end loop;
  return found_one;
end
$$;

comment on function outrider.has_unproven(regclass, pg_snapshot) is
  'Whether a partition of outrider.outbox has rows of transactions that a snapshot does not see.';

create function outrider.bucket_refusal(bucket smallint, taken_before timestamptz) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
-- Asked once without a lock, and once under it. Volatile, so that each statement sees what is committed when it begins.
as $$
declare
  partition regclass := to_regclass(format('outrider.outbox_%s', bucket_refusal.bucket));
  lineages integer := 0;
  is_only_copy boolean;
  proof record;
begin
  if not exists (
    select from pg_catalog.pg_inherits where inhrelid = partition and inhparent = to_regclass('outrider.outbox')
  ) then
    return 'missing';
  end if;
  if not exists (
    select from pg_catalog.pg_attrdef as d join pg_catalog.pg_attribute as a on a.attrelid = adrelid and a.attnum = adnum
    where adrelid = 'outrider.outbox'::regclass and attname = 'bucket' and pg_get_expr(adbin, adrelid) = 'outrider.bucket()'
  ) then
    return 'setup';
  end if;
  if pg_relation_size(partition) = 0 then
    return 'empty';
  end if;
  if (bucket_refusal.bucket - outrider.bucket() + 24) % 24 in (0, 1, 23) then
    return 'current';
  end if;
  if not exists (
    select from pg_catalog.pg_index as i join pg_catalog.pg_inherits on inhrelid = indexrelid
    where indrelid = partition and inhparent = to_regclass('outrider.outbox_txid') and indisvalid
  ) then
    return 'index';
  end if;
  if exists (
    select from outrider.incident as i join outrider.lineage as l using (lineage)
    where l.retired_at is null and i.kind in ('gap', 'foreign') and i.closed_at is null and i.repaired_at is null
      and (l.outbox_table = 'outrider.outbox' or 'outrider.outbox'::regclass::oid = any (l.outbox_oids))
  ) then
    return 'gap';
  end if;
  execute format(
    'select exists (
       select from outrider.incident as i
       where kind = ''rejected'' and closed_at is null and detail ? ''omitted'' and exists (
         select from only %s
         where bucket = $1 and id = (case when i.event_id ~ ''^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'' then i.event_id end)::uuid
       )
     )', partition
  ) into is_only_copy using bucket_refusal.bucket;
  if is_only_copy then
    return 'rejected';
  end if;
  for proof in
    select c.lsn, c.snapshot, s.confirmed_flush_lsn as confirmed
    from outrider.lineage as l
      left join lateral (
        select lsn, snapshot from outrider.checkpoint
        where lineage = l.lineage and taken_at <= taken_before
          and pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
        order by lsn desc limit 1
      ) as c on true
      left join pg_catalog.pg_replication_slots as s
        on s.slot_name::text = l.slot and s.database = current_database() and s.wal_status <> 'lost'
    where l.retired_at is null
      and (l.outbox_table = 'outrider.outbox' or 'outrider.outbox'::regclass::oid = any (l.outbox_oids))
  loop
    lineages := lineages + 1;
    if proof.lsn is null then
      return 'checkpoint';
    end if;
    if proof.confirmed is null or proof.confirmed < proof.lsn then
      return 'slot';
    end if;
    if outrider.has_unproven(partition, proof.snapshot) then
      return 'unproven';
    end if;
  end loop;
  if lineages = 0 then
    return 'checkpoint';
  end if;
  return null;
end
$$;

comment on function outrider.bucket_refusal(smallint, timestamptz) is
  'Why a bucket must not be emptied by the newest checkpoints from before a time; null: it may.';

create function outrider.examine_bucket(bucket smallint, taken_before timestamptz) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
as $$
declare
  index oid := (
    select indexrelid from pg_catalog.pg_index join pg_catalog.pg_inherits on inhrelid = indexrelid
    where indrelid = to_regclass(format('outrider.outbox_%s', examine_bucket.bucket))
      and inhparent = to_regclass('outrider.outbox_txid')
  );
begin
  if index is not null then
    perform brin_summarize_new_values(index::regclass);
  end if;
  return outrider.bucket_refusal(examine_bucket.bucket, taken_before);
end
$$;

comment on function outrider.examine_bucket(smallint, timestamptz) is
  'As outrider.bucket_refusal(), and before it summarizes what the index of the bucket lacks, so that the same question takes milliseconds under a lock.';

create function outrider.empty_bucket(bucket smallint, taken_before timestamptz) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '10ms'
as $$
declare
  partition regclass := to_regclass(format('outrider.outbox_%s', empty_bucket.bucket));
  refusal text;
begin
  -- A snapshot from before the lock would not see the rows that were committed in between.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'outrider.empty_bucket() needs a transaction that began as read committed, found %',
      current_setting('transaction_isolation') using errcode = 'invalid_transaction_state';
  end if;
  if partition is null then
    return 'missing';
  end if;
  -- Does not wait: what queues behind a lock that waits are inserts. Whoever has written to the bucket, or reads it, holds a lock; so
  -- does a prepared transaction. And no gap is opened before this transaction ends: a repair begins after it, or keeps it away.
  lock table outrider.incident in share mode nowait;
  execute format('lock table only %s in access exclusive mode nowait', partition);
  refusal := outrider.bucket_refusal(empty_bucket.bucket, taken_before);
  if refusal is not null then
    return refusal;
  end if;
  insert into outrider.emptied as e (lineage, lsn, snapshot, until)
  select l.lineage, c.lsn, c.snapshot, c.taken_at
  from outrider.lineage as l
    cross join lateral (
      select lsn, snapshot, taken_at from outrider.checkpoint
      where lineage = l.lineage and taken_at <= taken_before
        and pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
      order by lsn desc limit 1
    ) as c
  where l.retired_at is null
    and (l.outbox_table = 'outrider.outbox' or 'outrider.outbox'::regclass::oid = any (l.outbox_oids))
  on conflict (lineage) do update set
    lsn = greatest(e.lsn, excluded.lsn),
    snapshot = case when excluded.lsn > e.lsn then excluded.snapshot else e.snapshot end,
    until = greatest(e.until, excluded.until),
    emptied_at = excluded.emptied_at;
  -- Locks its TOAST table as well, which may be under vacuum by itself.
  execute format('truncate only %s', partition);
  return null;
exception
  when lock_not_available then
    return 'in_use';
end
$$;

comment on function outrider.empty_bucket(smallint, timestamptz) is
  'Empties a bucket of outrider.outbox whose rows the newest checkpoints from before a time prove to be published, for every lineage of the table, and returns null; else changes nothing and returns the reason. The transaction must be read committed, and should end at once.';

do $$
declare
  owner name := (select pg_catalog.pg_get_userbyid(relowner) from pg_catalog.pg_class where oid = 'outrider.outbox'::regclass);
begin
  if owner <> current_user then
    execute format('alter function outrider.empty_bucket(smallint, timestamptz) owner to %I', owner);
    execute format('alter function outrider.examine_bucket(smallint, timestamptz) owner to %I', owner);
    execute format('alter function outrider.bucket_refusal(smallint, timestamptz) owner to %I', owner);
    execute format('alter function outrider.has_unproven(regclass, pg_snapshot) owner to %I', owner);
    execute format('alter function outrider.bucket_seconds() owner to %I', owner);
    execute format('alter function outrider.bucket() owner to %I', owner);
    execute format('alter table outrider.emptied owner to %I', owner);
    -- What the functions read with the rights of that owner, and lock.
    execute format('grant select on outrider.lineage, outrider.checkpoint to %I', owner);
    execute format('grant select, update on outrider.incident to %I', owner);
  end if;
end
$$;

revoke all on outrider.emptied from public;
revoke all on function outrider.bucket_seconds(), outrider.bucket(), outrider.has_unproven(regclass, pg_snapshot),
  outrider.bucket_refusal(smallint, timestamptz), outrider.examine_bucket(smallint, timestamptz), outrider.empty_bucket(smallint, timestamptz) from public;

grant select on outrider.emptied to outrider_relay;
grant execute on function outrider.bucket_seconds(), outrider.bucket(), outrider.examine_bucket(smallint, timestamptz),
  outrider.empty_bucket(smallint, timestamptz) to outrider_relay;
grant execute on function outrider.bucket_seconds(), outrider.bucket() to outrider_writer;
