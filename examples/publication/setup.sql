-- Once, by the owner of the database, after `outrider setup`.

create table article (
  id text primary key,
  revision integer not null default 1,
  title text not null,
  body text not null
);

-- What is true: whether a revision of an article may be published.
create table article_validation (
  article_id text not null references article,
  revision integer not null,
  valid boolean not null,
  problems text[] not null,
  primary key (article_id, revision)
);

-- What is shown: made from events alone, and can be made again from them.
create table article_overview (
  article_id text primary key,
  revision integer not null,
  status text not null,
  problems text[] not null,
  correlation_id text,
  -- Of the last event that changed this row. Compared as text, byte by byte.
  sequence text collate "C" not null,
  changes integer not null default 1
);

-- A role for each service, with only the privileges that it needs. Give each role a password from your secret store, or a certificate.

create role editor login in role outrider_writer;
grant select, insert, update on article to editor;

-- A worker records what it has done in the inbox (outrider_consumer); one that publishes writes to the outbox, too.
create role validation_worker login in role outrider_consumer, outrider_writer;
grant select, insert, update on article_validation to validation_worker;

create role projection_worker login in role outrider_consumer;
grant select, insert, update on article_overview to projection_worker;
