import type { EventDefinition } from '../event/define.js'
import { newId } from '../producer/id.js'
import type { EventInput } from '../producer/row.js'
import type { ConsumerEvent } from './event.js'

/** An event for `deliver`. Only `type` is required; the other fields have defaults. */
export interface TestDelivery extends Partial<Omit<ConsumerEvent, 'type'>> {
  type: string
}

/** One as `publish` would publish it. */
export function definedTestDelivery(definition: EventDefinition, input: EventInput<EventDefinition>): TestDelivery {
  const { stream, type, version } = definition
  const { subject, correlationId, causationId, headers = {}, time, id, data } = input
  return {
    ...{ stream, type, version, data, headers: headers as Record<string, string> },
    ...(id === undefined ? {} : { id }),
    ...(time === undefined ? {} : { time }),
    subject: subject ?? undefined,
    correlationId: correlationId ?? undefined,
    causationId: causationId ?? undefined,
  }
}

/**
 * What is not given is made up: a new id, now, version 1, the stream that handlers know the type from. The payload is what JSON
 * makes of it, as it would be in a stream.
 */
export function testDeliveryOf(delivery: TestDelivery, streamsOf: (type: string) => string[]): ConsumerEvent {
  if (typeof delivery?.type !== 'string' || delivery.type === '') {
    throw new TypeError(`Expected an event to deliver with its type, found ${JSON.stringify(delivery?.type)}.`)
  }
  const { data, ...given } = delivery
  const [stream = '', other] = delivery.stream === undefined ? streamsOf(delivery.type) : [delivery.stream]
  if (other !== undefined) {
    throw new TypeError(
      `Expected the stream of ${delivery.type}, which is handled from ${stream} and ${other}, found none.`,
    )
  }
  return {
    id: newId(),
    source: '/test',
    version: 1,
    subject: undefined,
    time: new Date(),
    correlationId: undefined,
    causationId: undefined,
    headers: {},
    sequence: undefined,
    ...given,
    stream,
    data: data === undefined ? undefined : JSON.parse(JSON.stringify(data)),
  }
}
