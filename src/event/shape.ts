import type { Position } from './position.js'

/**
 * The fields of an entry without what differs from event to event, as one text: most events of a stream share it, so
 * that an event is sent as its values alone. One field a line, in the entry's order:
 *
 *   name              takes the next value
 *   name=constant
 *   name<id           the event's id
 *   name<position     its position
 *
 * Names are lower-case letters and digits. append.lua reads the same text.
 */
export type Shape = string

/** Stands for the shape of the event before it in the same batch. No shape looks like it. */
export const SAME_SHAPE = '^'

/** How many values an event of this shape has. */
export const countValues = (shape: Shape): number => shape.split('\n').filter((line) => !/[=<]/.test(line)).length

/** The entry that append.lua makes of an event. */
export function fieldsOf(
  shape: Shape,
  id: string,
  position: Position,
  values: readonly string[],
): Record<string, string> {
  const fields: Record<string, string> = {}
  let next = 0
  for (const line of shape.split('\n')) {
    const [, name = '', kind, rest = ''] = /^([a-z0-9]+)([=<]?)(.*)$/s.exec(line) ?? []
    if (kind === '=') fields[name] = rest
    else if (kind === '<') fields[name] = rest === 'id' ? id : position
    else fields[name] = values[next++] ?? ''
  }
  return fields
}
