import type pg from 'pg'

/** One transaction with so many subtransactions, in a table that is not published. */
export async function subtransactions(postgres: pg.Client, count: number): Promise<void> {
  await postgres.query('create table elsewhere (n int)')
  await postgres.query(
    `do $$ begin for n in 1..${count} loop
       begin insert into elsewhere values (n); exception when others then null; end;
     end loop; end $$`,
  )
}
