import { compareIds, ZERO_ENTRY } from '../../event/entry-id.js'
import {
  loadGroups,
  loadGroupsOf,
  type MovedMarks,
  type SavedGroup,
  saveGroups,
} from '../../postgres/state/consumer-groups.js'
import type { GroupFloor } from '../../redis/streams/trim.js'
import type { StateStore } from '../confirm/state-store.js'

/** How often floors that moved are saved, in milliseconds. An older one keeps more. */
const SAVE_EVERY_MS = 600_000

/**
 * The consumer groups of each stream: those that Redis has, and those that it had. A group that was destroyed, or that Redis has lost in
 * a failover, holds up trimming where it was: its workers may only be down.
 */
export class KnownGroups {
  readonly #stateStore: StateStore
  readonly #groups = new Map<string, Map<string, SavedGroup>>()
  readonly #moved = new Set<SavedGroup>()
  #savedAt = Number.NEGATIVE_INFINITY

  constructor(stateStore: StateStore) {
    this.#stateStore = stateStore
  }

  /** Loads what earlier sessions have seen. */
  async load(): Promise<void> {
    await this.#stateStore.inTurn(async (postgres) => {
      for await (const page of loadGroups(postgres, this.#lineage)) for (const group of page) this.#set(group)
    })
  }

  /**
   * A stream has these groups now. Resolves with those that are known, or `declared`, and missing. What is new, or has gone back, is
   * saved first. A group whose row was deleted is not waited for any longer.
   */
  async seen(key: string, groups: readonly GroupFloor[], declared: readonly string[]): Promise<GroupFloor[]> {
    const urgent: SavedGroup[] = []
    for (const { name, floor } of groups) {
      const known = this.#of(key).get(name)
      const group = known ?? { key, name, floor, ...NOT_READ }
      if (!known || compareIds(floor, group.floor) < 0) urgent.push(group)
      else if (group.floor !== floor) this.#moved.add(group)
      group.floor = floor
      if (!known) this.#set(group)
    }
    if (urgent.length > 0) await this.#save(urgent, true)
    const present = new Set(groups.map(({ name }) => name))
    const known = this.#of(key)
    if ([...known.keys()].some((name) => !present.has(name))) await this.#forgetDeleted(key, present)
    const missing = [...known.values()].filter(({ name }) => !present.has(name))
    const unseen = declared.filter((name) => !known.has(name)).map((name) => ({ name, floor: ZERO_ENTRY }))
    return [...missing.map(({ name, floor }) => ({ name, floor })), ...unseen]
  }

  /** The groups that were seen in a stream, now or before. */
  of(key: string): Iterable<SavedGroup> {
    return this.#of(key).values()
  }

  /** How far what a group has moved out of the stream is recorded. */
  async advance(group: SavedGroup, marks: MovedMarks): Promise<void> {
    const { deadEntry, waitingEntry, replayedEntry } = group
    if (deadEntry === marks.deadEntry && waitingEntry === marks.waitingEntry && replayedEntry === marks.replayedEntry)
      return
    Object.assign(group, marks)
    await this.#save([group])
  }

  /** Saves floors that moved, now and then. */
  async save(now: number): Promise<void> {
    if (this.#moved.size === 0 || now - this.#savedAt < SAVE_EVERY_MS) return
    this.#savedAt = now
    await this.#save([...this.#moved])
  }

  get #lineage(): string {
    return this.#stateStore.lineage.lineage
  }

  async #save(groups: readonly SavedGroup[], areNew = false): Promise<void> {
    await this.#stateStore.inTurn((postgres) => saveGroups(postgres, this.#stateStore.own, groups, areNew))
    for (const group of groups) this.#moved.delete(group)
  }

  async #forgetDeleted(key: string, present: ReadonlySet<string>): Promise<void> {
    const saved = await this.#stateStore.inTurn((postgres) => loadGroupsOf(postgres, this.#lineage, key))
    const names = new Set(saved.map(({ name }) => name))
    for (const [name, group] of this.#of(key)) {
      if (present.has(name) || names.has(name)) continue
      this.#groups.get(key)?.delete(name)
      this.#moved.delete(group)
    }
  }

  #of(key: string): ReadonlyMap<string, SavedGroup> {
    return this.#groups.get(key) ?? NONE
  }

  #set(group: SavedGroup): void {
    const groups = this.#groups.get(group.key) ?? new Map<string, SavedGroup>()
    this.#groups.set(group.key, groups.set(group.name, group))
  }
}

const NOT_READ: MovedMarks = { deadEntry: ZERO_ENTRY, waitingEntry: ZERO_ENTRY, replayedEntry: ZERO_ENTRY }

/** Of most streams where there are many: no group reads them. */
const NONE: ReadonlyMap<string, SavedGroup> = new Map()
