-- serves: 004
-- The outbox keeps its rows where they were inserted, and a lineage knows its table by oid: a name may move to another
-- table, while the publication stays with the oid. Version 004 neither writes `bucket` nor reads what is added here.

comment on schema outrider is
  'Outrider carries the rows of outrider.outbox into Redis Streams. Start at `outrider check` and `outrider incidents`.';

-- An UPDATE that moves a row to another partition is decoded as an INSERT: the event would be published twice.
create function outrider.refuse_move() returns trigger
language plpgsql set search_path = ''
as $$
begin
  raise exception 'a row of %.% must stay in its partition: moving it would publish its event again', tg_table_schema, tg_table_name
    using errcode = 'integrity_constraint_violation',
      hint = 'Leave the partition key as it was inserted.';
end
$$;

comment on function outrider.refuse_move() is
  'For a BEFORE UPDATE row trigger on an outbox table that is partitioned: refuses an UPDATE of the partition key.';

revoke all on function outrider.refuse_move() from public;

create trigger outbox_bucket_is_fixed before update of bucket on outrider.outbox
  for each row when (old.bucket is distinct from new.bucket) execute function outrider.refuse_move();

-- seq, txid and bucket are Outrider's own: what was published is decided by txid.
revoke insert on outrider.outbox from outrider_writer;
grant insert (id, stream, type, subject, data, schema_version, correlation_id, causation_id, headers, created_at)
  on outrider.outbox to outrider_writer;

create function outrider.outbox_oid(publication text, outbox_table text) returns oid
language sql stable parallel safe
-- The table of this name where the publication has several (tables that inherit from it), else the first.
return (
  select c.oid
  from pg_catalog.pg_publication as p
  join pg_catalog.pg_publication_rel as r on r.prpubid = p.oid
  join pg_catalog.pg_class as c on c.oid = r.prrelid
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
  where p.pubname = publication::name
  order by (n.nspname::text || '.' || c.relname::text) = outbox_table desc, r.oid
  limit 1
);

comment on function outrider.outbox_oid(text, text) is
  'The table that a publication publishes, whatever its name is now; null when it publishes none.';

revoke all on function outrider.outbox_oid(text, text) from public;
grant execute on function outrider.outbox_oid(text, text) to outrider_relay;

alter table outrider.lineage add column outbox_oids oid[] not null default '{}';

comment on column outrider.lineage.outbox_oids is
  'The oids of the tables that this lineage has published from, the current one last; WAL that is not confirmed yet may have rows of each. Empty: not known to be whole.';

-- Where the publication or the name differs already, rows may have passed unseen: the relay opens a gap.
update outrider.lineage as l set outbox_oids = array[c.oid]
from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where l.retired_at is null
  and c.oid = outrider.outbox_oid(l.publication, l.outbox_table)
  and (n.nspname::text || '.' || c.relname::text) = l.outbox_table
  and outrider.publication_state(l.publication) = l.publication_state;
