const LONGEST_TITLE = 60
const LEAST_WORDS = 8

/** The reasons why an article may not be published; empty if it may be. */
export function problemsOf({ title, body }: { title: string; body: string }): string[] {
  const words = body.split(/\s+/).filter(Boolean).length
  return [
    ...(title.trim() === '' ? ['the title is missing'] : []),
    ...(title.length > LONGEST_TITLE ? [`the title is longer than ${LONGEST_TITLE} characters`] : []),
    ...(words < LEAST_WORDS ? [`${words} words, at least ${LEAST_WORDS} are needed`] : []),
    ...(/\bTODO\b/.test(body) ? ['there is something left to do'] : []),
  ]
}
