export { type Consumer, createConsumer, type Delivered } from './consumer.js'
export { DeadLetter, Retry } from './delivery/retry-policy.js'
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
export type {
  DatabaseAdapter,
  DatabaseOption,
  PgPool,
  QueryResult,
  Ran,
  TransactionOf,
} from './inbox/database-adapter.js'
export { accept } from './inbox/inbox.js'
export type { ConsumerLogger, ConsumerOptions, RedisOptions } from './options.js'
export type { Stats } from './stats.js'
export type { TestDelivery } from './test-delivery.js'
