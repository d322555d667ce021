-- Once, by the owner of the workers' database, after invoices_worker was created and `outrider setup --only inbox --grant-consumer
-- invoices_worker` has given it the inbox. This is its own table, and it may do nothing else.

create table invoice (
  id bigint generated always as identity primary key,
  order_id text not null,
  total numeric not null
);

grant insert on invoice to invoices_worker;
