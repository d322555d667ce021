import type { Settings } from './schema.js'
import { get, type Source } from './source.js'

/**
 * Paths of settings that were given and have no effect in this version: they belong to retention, which is being built. A default is not given, so it is not among them. Pure.
 */
export function withoutEffect(settings: Settings, source: Source): string[] {
  return [
    ...(get(source.tree, 'retention') === undefined ? [] : ['retention']),
    ...Object.entries(settings.streams).flatMap(([name, { retention, groups }]) => [
      ...(retention === undefined ? [] : [`streams.${name}.retention`]),
      ...(groups === undefined ? [] : [`streams.${name}.groups`]),
    ]),
  ]
}
