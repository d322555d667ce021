-- The inbox: which events a group of workers has already done. It lives in the workers' database, which need not be the
-- one with the outbox, so this file stands on no other (`outrider setup --only inbox`).

do $$
begin
  if to_regnamespace('outrider') is null then
    create schema outrider;
  end if;
end
$$;

do $$
begin
  for attempt in 1 .. 10 loop
    begin
      if not exists (select from pg_catalog.pg_roles where rolname = 'outrider_consumer') then
        create role outrider_consumer nologin;
        comment on role outrider_consumer is 'May record finished events in outrider.inbox. Grant it to workers.';
      end if;
      grant usage on schema outrider to outrider_consumer;
      exit;
    exception
      when duplicate_object or unique_violation or undefined_object then
        if attempt = 10 then
          raise;
        end if;
    end;
  end loop;
end
$$;

create table outrider.inbox (
  consumer_group text collate "C" not null,
  source text collate "C" not null,
  id text collate "C" not null,
  processed_at timestamptz not null default clock_timestamp(),
  constraint inbox_pkey primary key (consumer_group, source, id)
);

create index inbox_processed_at on outrider.inbox (processed_at);

comment on table outrider.inbox is
  'One row for each event that a consumer group has done, written in the same transaction as the event''s effects. Deleting a row lets that event''s effects happen again if it is delivered again.';
comment on column outrider.inbox.consumer_group is 'The group of workers.';
comment on column outrider.inbox.source is 'CloudEvents source of the event.';
comment on column outrider.inbox.id is 'CloudEvents id of the event; unique within its source.';
comment on column outrider.inbox.processed_at is 'When it was done; workers prune by it.';

create function outrider.accept(consumer_group text, source text, id text) returns boolean
language plpgsql volatile security invoker
as $$
begin
  insert into outrider.inbox (consumer_group, source, id)
  values (accept.consumer_group, accept.source, accept.id)
  on conflict do nothing;
  return found;
end
$$;

comment on function outrider.accept(text, text, text) is
  'Call it first in the worker''s transaction: true means do the work, false means that this group has done it. Waits while another transaction is doing it. Acknowledge the entry in both cases, after the commit.';

revoke all on outrider.inbox from public;
revoke all on function outrider.accept(text, text, text) from public;

grant select, insert, delete on outrider.inbox to outrider_consumer;
grant execute on function outrider.accept(text, text, text) to outrider_consumer;
