/** The consumer groups. Each processes every event once, independently of the other. */
export const GROUPS = ['billing', 'search'] as const
export type GroupName = (typeof GROUPS)[number]
export type PerGroup<T> = Record<GroupName, T>

export const perGroup = <T>(of: (group: GroupName) => T): PerGroup<T> =>
  Object.fromEntries(GROUPS.map((group) => [group, of(group)])) as PerGroup<T>
