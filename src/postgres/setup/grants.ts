import pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import { sqlState } from '../client/transaction.js'

/** The login roles that are to be given each of Outrider's roles. */
export interface Grants {
  outrider_relay?: readonly string[]
  outrider_writer?: readonly string[]
  outrider_consumer?: readonly string[]
}

export interface Granted {
  role: keyof Grants
  to: string
  state: 'granted' | 'present'
}

/** Throws an OutriderError where a role is missing, or where this one could not grant; to be asked before anything is changed. */
export async function requireGrantable(client: pg.ClientBase, grants: Grants): Promise<void> {
  const memberships = await look(client, grants)
  const missing = memberships.filter(({ found }) => !found)
  if (missing.length > 0) throw refuseMissing(missing)
  const open = memberships.filter(({ has }) => !has)
  const deaf = open.filter(({ inherits }) => !inherits)
  if (deaf.length > 0) throw refuseDeaf(deaf)
  const beyond = open.filter(({ grantable }) => !grantable)
  if (beyond.length > 0) throw refuseBeyond(beyond)
}

/** Grants what is not there yet, and says what was. Outrider's roles must exist. */
export async function grantRoles(client: pg.ClientBase, grants: Grants): Promise<Granted[]> {
  const granted: Granted[] = []
  for (const membership of await look(client, grants)) {
    const { role, to, has } = membership
    if (!has) await grant(client, membership)
    granted.push({ role, to, state: has ? 'present' : 'granted' })
  }
  return granted
}

interface Membership {
  role: keyof Grants
  to: string
  /** Whether `to` is a role at all. */
  found: boolean
  /** Whether `to` has the rights of `role`, in whatever way: a superuser has them, too. */
  has: boolean
  /** Whether a grant would give them: from 16 on it says so itself, before that the role does. */
  inherits: boolean
  /** Whether the current role may grant it; a role that is still to be made will be its own. */
  grantable: boolean
  statement: string
}

async function look(client: pg.ClientBase, grants: Grants): Promise<Membership[]> {
  const pairs = Object.entries(grants).flatMap(([role, names]: [string, readonly string[]]) =>
    [...new Set(names)].map((to) => [role, to] as const),
  )
  const { rows } = await client.query<Omit<Membership, 'statement'> & { version: number }>(
    `select role, required.member as "to", m.oid is not null as found,
       coalesce(pg_has_role(m.oid, r.oid, 'usage'), false) as has,
       version >= 160000 or coalesce(m.rolinherit, false) as inherits,
       r.oid is null or me.rolsuper or pg_has_role(r.oid, 'member with admin option')
         or version < 160000 and me.rolcreaterole as grantable,
       version
     from unnest($1::text[], $2::text[]) with ordinality as required (role, member, place)
       cross join (select current_setting('server_version_num')::integer as version) as server
       join pg_roles as me on me.rolname = current_user
       left join pg_roles as r on r.rolname = required.role
       left join pg_roles as m on m.rolname = required.member
     order by place`,
    [pairs.map(([role]) => role), pairs.map(([, to]) => to)],
  )
  return rows.map(({ version, ...membership }) => {
    const { role, to } = membership
    const inherit = version >= 160_000 ? ' with inherit true' : ''
    return { ...membership, statement: `grant ${role} to ${pg.escapeIdentifier(to)}${inherit}` }
  })
}

/** Roles belong to the whole cluster: two setups in two databases may grant the same at once. */
async function grant(client: pg.ClientBase, membership: Membership): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await client.query(membership.statement)
      return
    } catch (error) {
      const state = sqlState(error) ?? ''
      if (state === '42501') throw refuseBeyond([membership], error)
      // unique_violation, and `tuple concurrently updated`.
      if (!['23505', 'XX000'].includes(state) || attempt === 10) throw error
    }
  }
}

const FLAG = {
  outrider_relay: '--grant-relay',
  outrider_writer: '--grant-writer',
  outrider_consumer: '--grant-consumer',
}

const refuseMissing = (missing: Membership[]): OutriderError =>
  new OutriderError(
    `${missing.map(({ role, to }) => `${FLAG[role]}: expected the role ${to}, found none of this name`).join('; ')} ` +
      '(upper and lower case count). Nothing was changed. As an administrator, with a password of your own: ' +
      `${statements(missing.map(({ role, to }) => `create role ${pg.escapeIdentifier(to)} login${role === 'outrider_relay' ? ' replication' : ''}`))}. ` +
      'Then run the command again.',
  )

const refuseDeaf = (deaf: Membership[]): OutriderError =>
  new OutriderError(
    `${deaf.map(({ role, to }) => `${FLAG[role]}: expected the role ${to} to inherit what it is granted, found NOINHERIT`).join('; ')}. ` +
      `Nothing was changed. As an administrator: ${statements(deaf.map(({ to }) => `alter role ${pg.escapeIdentifier(to)} inherit`))}. ` +
      'Then run the command again.',
  )

const refuseBeyond = (beyond: Membership[], cause?: unknown): OutriderError =>
  new OutriderError(
    `Expected a role that may grant ${[...new Set(beyond.map(({ role }) => role))].join(', ')}, found that this one may not: ` +
      'another role made what is granted, in this database or in another of the cluster. As an administrator: ' +
      `${statements(beyond.map(({ statement }) => statement))}. Then run the command again.`,
    { cause },
  )

const statements = (list: string[]): string => `\`${[...new Set(list)].join('; ')}\``
