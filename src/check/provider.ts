import pg from 'pg'
import type { Fix } from './finding.js'

/** Who runs the server, where that changes how a setting is made. Told by the roles that only they create. */
export type Provider = 'rds' | 'cloudsql' | 'azure'

/** https://docs.aws.amazon.com/AmazonRDS, https://cloud.google.com/sql/docs/postgres, https://learn.microsoft.com/azure/postgresql */
export const PROVIDER_ROLES: Record<string, Provider> = {
  rds_superuser: 'rds',
  cloudsqlsuperuser: 'cloudsql',
  azure_pg_admin: 'azure',
}

export interface ServerSetting {
  name: string
  /** As SQL and postgresql.conf take it: `10GB`. */
  value: string
  /** Without a unit, in the setting's base unit, where services want it so; default `value`. */
  plain?: string
  restart?: boolean
}

/** How to change a setting of the server. */
export function settingFix(
  provider: Provider | undefined,
  { name, value, plain = value, restart }: ServerSetting,
): Fix {
  const then = restart ? ', then restart' : ''
  switch (provider) {
    case 'rds':
      return {
        how: `In the DB parameter group (Aurora: DB cluster parameter group)${restart ? ', then reboot' : ''}`,
        text: `${name} = ${plain}`,
      }
    case 'cloudsql':
      return {
        how: `As a database flag of the instance${then}; the command replaces all flags, so name the others, too`,
        text: `gcloud sql instances patch <instance> --database-flags=${name}=${plain}`,
      }
    case 'azure':
      return {
        how: `As a server parameter${then}`,
        text: `az postgres flexible-server parameter set --resource-group <group> --server-name <server> --name ${name} --value ${plain}`,
      }
    default: {
      const statement = `alter system set ${name} = ${pg.escapeLiteral(value)};`
      return {
        how: `In SQL, as an administrator${restart ? ', then restart Postgres' : ''}`,
        text: restart ? statement : `${statement}\nselect pg_reload_conf();`,
      }
    }
  }
}

/** Two services have a switch of their own for it. */
export function logicalFix(provider: Provider | undefined): Fix {
  const switches: Partial<Record<Provider, ServerSetting>> = {
    rds: { name: 'rds.logical_replication', value: '1', restart: true },
    cloudsql: { name: 'cloudsql.logical_decoding', value: 'on', restart: true },
  }
  const own = provider && switches[provider]
  return settingFix(provider, own ?? { name: 'wal_level', value: 'logical', restart: true })
}

export function replicationFix(provider: Provider | undefined, role: string): Fix {
  const name = pg.escapeIdentifier(role)
  const how = 'In SQL, as an administrator'
  if (provider === 'rds') return { how, text: `grant rds_replication to ${name};` }
  if (provider === 'cloudsql') return { how, text: `alter user ${name} with replication;` }
  return { how, text: `alter role ${name} replication;` }
}
