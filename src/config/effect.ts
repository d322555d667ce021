import type { Settings } from './schema.js'
import { get, type Source } from './source.js'

/**
 * Paths of settings that were given and have no effect in this version: they belong to repair and retention, which are
 * being built. A default is not given, so it is not among them. Pure.
 */
export function withoutEffect(settings: Settings, source: Source): string[] {
  const given = (path: string) => get(source.tree, path) !== undefined
  return [
    ...(given('retention') ? ['retention'] : []),
    ...(given('onGap') && settings.onGap === 'repair' ? ['onGap'] : []),
    ...Object.entries(settings.streams).flatMap(([name, { retention, groups }]) => [
      ...(retention === undefined ? [] : [`streams.${name}.retention`]),
      ...(groups === undefined ? [] : [`streams.${name}.groups`]),
    ]),
  ]
}
