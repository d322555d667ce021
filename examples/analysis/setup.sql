-- Once, by the owner of the database, after `outrider setup`.

create table upload (
  file text primary key,
  bytes bigint not null,
  sha256 text not null,
  uploaded_at timestamptz not null default clock_timestamp()
);

-- One row for each content, analysis and version of the analysis.
create table analysis (
  sha256 text not null,
  analysis text not null,
  version integer not null,
  words integer not null,
  distinct_words integer not null,
  -- How often it was committed. It is kept here to be looked at: more than 1 would be twice the work.
  runs integer not null default 1,
  primary key (sha256, analysis, version)
);

-- A role for each service, with what it needs and nothing else. How it proves who it is, is not said here: give it a
-- password from where you keep secrets, or a certificate.

create role uploads login in role outrider_writer;
grant insert on upload to uploads;

-- Publishes nothing, so it may not write to the outbox.
create role analysis_worker login in role outrider_consumer;
grant select, insert, update on analysis to analysis_worker;
