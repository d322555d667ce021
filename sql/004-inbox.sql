-- What the consumer library adds to the inbox: bounded waiting, batches, and order. Stands on 002-inbox alone.
-- As there, bodies are parsed at creation or run with no search_path but pg_catalog.

-- Behind a transaction that hangs a worker must not hang, too: it gets 55P03, rolls back and comes again.
alter function outrider.accept(text, text, text) set lock_timeout = '5s';

-- Each group prunes by its own window.
create index inbox_prune on outrider.inbox (consumer_group, processed_at);
drop index outrider.inbox_processed_at;

-- In the order of the key, so that two batches with events in common wait for each other and never deadlock.
create function outrider.accept_many(consumer_group text, events json) returns setof integer
language sql volatile security invoker
set lock_timeout = '5s'
begin atomic
  with wanted as (
    select event.source, event.id, min(event.place)::integer as place
    from (
      select element ->> 'source' as source, element ->> 'id' as id, ordinality - 1 as place
      from json_array_elements(accept_many.events) with ordinality as each (element, ordinality)
    ) as event
    group by event.source, event.id
  ), accepted as (
    insert into outrider.inbox (consumer_group, source, id)
    select accept_many.consumer_group, wanted.source, wanted.id
    from wanted
    order by wanted.source collate "C", wanted.id collate "C"
    on conflict do nothing
    returning inbox.source, inbox.id
  )
  select wanted.place from accepted join wanted using (source, id) order by wanted.place;
end;

comment on function outrider.accept_many(text, json) is
  'outrider.accept() for many events in one transaction: events is an array of {"source": …, "id": …}; returns the places, from 0, of those to do. The others are done, or stand in the array twice.';

-- What a group reads. And order within a subject, across workers: each stream (or partition) is leased to one worker of the
-- group at a time. The epoch counts the holders, and a transaction of an ordered worker is refused when its epoch is not the last.

create table outrider.subscription (
  consumer_group text collate "C" not null,
  stream_key text collate "C" not null,
  epoch bigint not null default 0,
  worker text collate "C",
  expires_at timestamptz,
  constraint subscription_pkey primary key (consumer_group, stream_key)
) with (fillfactor = 50);

comment on table outrider.subscription is
  'Which streams and partitions a consumer group reads: where Redis has lost the group, it begins anew at the start and not at the end. And which worker of an ordered group holds each: deleting a row while workers run lets their order break.';
comment on column outrider.subscription.epoch is 'Rises by one with each new holder; a transaction with an older one is refused.';
comment on column outrider.subscription.worker is 'The holder. Null: nobody.';
comment on column outrider.subscription.expires_at is 'When another worker may take it, unless the holder renews it before.';

create table outrider.worker (
  consumer_group text collate "C" not null,
  stream text collate "C" not null,
  worker text collate "C" not null,
  expires_at timestamptz not null,
  constraint worker_pkey primary key (consumer_group, stream, worker)
) with (fillfactor = 50);

comment on table outrider.worker is
  'The live workers of ordered consumer groups, by stream: among them the partitions are divided.';

create function outrider.renew_leases(
  consumer_group text,
  stream text,
  stream_keys json,
  worker text,
  ttl interval
) returns table (stream_key text, epoch bigint, target integer)
language plpgsql volatile security invoker
set lock_timeout = '5s'
set search_path = ''
as $$
#variable_conflict use_column
declare
  members integer;
  place integer;
  partitions integer := json_array_length(renew_leases.stream_keys);
  share integer;
  held integer;
begin
  -- A worker that is frozen before it commits must not hold up all the others.
  perform set_config('idle_in_transaction_session_timeout', '3s', true);
  -- One at a time: each decides by what the others hold.
  perform pg_advisory_xact_lock(hashtextextended(renew_leases.consumer_group || ' ' || renew_leases.stream, 7));

  insert into outrider.worker as w values (
    renew_leases.consumer_group, renew_leases.stream, renew_leases.worker, clock_timestamp() + renew_leases.ttl
  )
  on conflict on constraint worker_pkey do update set expires_at = excluded.expires_at;
  delete from outrider.worker w
  where w.consumer_group = renew_leases.consumer_group and w.stream = renew_leases.stream and w.expires_at < clock_timestamp();

  update outrider.subscription l set expires_at = clock_timestamp() + renew_leases.ttl
  where l.consumer_group = renew_leases.consumer_group and l.worker = renew_leases.worker
    and l.stream_key in (select json_array_elements_text(renew_leases.stream_keys));
  get diagnostics held = row_count;

  -- Everybody gets as many as everybody else, and the remainder goes to the first, counted from a place that differs from
  -- stream to stream: with many streams of one partition each, nobody gets all of them.
  select count(*), count(*) filter (where w.worker < renew_leases.worker) into members, place
  from outrider.worker w where w.consumer_group = renew_leases.consumer_group and w.stream = renew_leases.stream;
  place := (place + abs(hashtext(renew_leases.stream)::bigint) % members) % members;
  share := partitions / members + (place < partitions % members)::integer;

  update outrider.subscription l set worker = renew_leases.worker, epoch = l.epoch + 1, expires_at = clock_timestamp() + renew_leases.ttl
  where l.consumer_group = renew_leases.consumer_group and l.stream_key in (
    select free.stream_key from outrider.subscription free
    where free.consumer_group = renew_leases.consumer_group
      and free.stream_key in (select json_array_elements_text(renew_leases.stream_keys))
      and free.worker is distinct from renew_leases.worker
      and (free.worker is null or free.expires_at < clock_timestamp())
    order by free.stream_key
    limit greatest(share - held, 0)
  );

  return query select l.stream_key, l.epoch, share
  from outrider.subscription l
  where l.consumer_group = renew_leases.consumer_group and l.worker = renew_leases.worker
    and l.stream_key in (select json_array_elements_text(renew_leases.stream_keys))
  order by l.stream_key;
end
$$;

comment on function outrider.renew_leases(text, text, json, text, interval) is
  'Says that a worker lives, renews what it holds of a stream''s partitions, takes free ones up to its fair share, and returns all that it holds. What it holds above target it should give back.';

create function outrider.accept_ordered(
  consumer_group text,
  events json,
  stream_key text,
  epoch bigint
) returns setof integer
language plpgsql volatile security invoker
set search_path = ''
as $$
#variable_conflict use_column
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'an ordered consumer needs transactions of isolation level read committed, found %',
      current_setting('transaction_isolation')
      using errcode = 'feature_not_supported';
  end if;
  return query select place from outrider.accept_many(accept_ordered.consumer_group, accept_ordered.events) as m (place);
  -- After the rows, never before: whoever raises the epoch from here on waits for those rows.
  if not exists (
    select from outrider.subscription l
    where l.consumer_group = accept_ordered.consumer_group and l.stream_key = accept_ordered.stream_key
      and l.epoch = accept_ordered.epoch
  ) then
    raise exception 'another worker holds % of the group % by now', accept_ordered.stream_key, accept_ordered.consumer_group
      using errcode = 'OR001', hint = 'This worker was frozen or cut off for longer than its lease. Nothing was done.';
  end if;
end
$$;

comment on function outrider.accept_ordered(text, json, text, bigint) is
  'outrider.accept_many() for a worker that holds the lease of stream_key with this epoch; refused with SQLSTATE OR001 when another one took it since.';

revoke all on outrider.subscription, outrider.worker from public;
revoke all on function outrider.accept_many(text, json) from public;
revoke all on function outrider.renew_leases(text, text, json, text, interval) from public;
revoke all on function outrider.accept_ordered(text, json, text, bigint) from public;

-- For the pruning, which skips rows that another worker has locked: to lock a row takes a right to update something of it.
grant update (processed_at) on outrider.inbox to outrider_consumer;
grant select, insert, update on outrider.subscription to outrider_consumer;
grant select, insert, update, delete on outrider.worker to outrider_consumer;
grant execute on function outrider.accept_many(text, json) to outrider_consumer;
grant execute on function outrider.renew_leases(text, text, json, text, interval) to outrider_consumer;
grant execute on function outrider.accept_ordered(text, json, text, bigint) to outrider_consumer;
