export { type Consumer, createConsumer, type Delivered } from './consumer.js'
export type { DatabaseAdapter, DatabaseOption, PgPool, QueryResult, Ran, TransactionOf } from './database.js'
export type { Delivery } from './delivery.js'
export type { Duration } from './duration.js'
export type { ConsumerEvent, EventOf } from './event.js'
export type {
  BackoffOption,
  BatchHandler,
  BatchOptions,
  Handler,
  HandlerContext,
  HandlerOptions,
  LongHandler,
  Publish,
  WorkContext,
  Wrap,
} from './handler.js'
export { accept } from './inbox.js'
export type { ConsumerLogger, ConsumerOptions, RedisOptions } from './options.js'
export { DeadLetter, Retry } from './retry.js'
export type { Stats } from './run.js'
