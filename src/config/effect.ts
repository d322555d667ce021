import { get, type Source } from './source.js'

/**
 * Paths of settings that were given and have no effect in this version: they belong to the retention of the outbox, which is being
 * built. A default is not given, so it is not among them. Pure.
 */
export function withoutEffect(source: Source): string[] {
  return get(source.tree, 'retention') === undefined ? [] : ['retention']
}
