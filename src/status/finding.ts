/** One problem, and what to do about it. */
export interface StatusFinding {
  /** Short and stable. */
  id: string
  /** What is wrong, as a sentence. */
  is: string
  /** Commands, or a sentence where it is no matter of a command. */
  next: string[]
}

export const finding = (id: string, is: string, ...next: string[]): StatusFinding => ({ id, is, next })
