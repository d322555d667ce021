-- Once, by the owner of the database, after `outrider setup`.

-- What is true. Each change of a product raises its version.
create table product (
  id text primary key,
  version integer not null default 1,
  name text not null,
  price_cents integer not null
);

-- The read model, made from events. Workers write to a table with a number, and readers read the view. So a second table can be built
-- and can replace the first in one step.
create table catalogue_1 (
  product_id text primary key,
  version integer not null,
  name text not null,
  price_cents integer not null
);
create view catalogue as select product_id, version, name, price_cents from catalogue_1;

-- A role for each service, with only the privileges that it needs. Give each role a password from your secret store, or a certificate.

create role shop login in role outrider_writer;
grant select, insert, update on product to shop;

create role catalogue_worker login in role outrider_consumer;
grant select, insert, update on catalogue_1 to catalogue_worker;

create role catalogue_reader login;
grant select on catalogue to catalogue_reader;
