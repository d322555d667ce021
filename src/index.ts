export {
  defineEvent,
  type EventDefinition,
  type EventInputData,
  type EventOptions,
  type EventOutputData,
} from './event/define.js'
export { EventError, type EventIssue } from './event/error.js'
export type { EventAttributes } from './producer/attributes.js'
export type { JsonText } from './producer/json.js'
export { publish } from './producer/publish.js'
export { type EventInput, type OutboxRow, toRow } from './producer/row.js'
export {
  type DrizzleTransaction,
  type KnexTransaction,
  type KyselyTransaction,
  type PgTransaction,
  type Query,
  type Transaction,
  type TransactionAdapter,
  TransactionError,
  type TypeOrmManager,
  type TypeOrmRunner,
} from './producer/transaction.js'
