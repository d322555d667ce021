import { expect, it } from 'vitest'
import { closest } from './suggestion.js'

it.each([
  ['setpu', 'setup'],
  ['prot', 'port'],
  ['OUTRIDER_SLOTT', 'OUTRIDER_SLOT'],
  ['SETUP', 'setup'],
  ['OUTRIDER_POSTGRES_PASSWD_FILE', 'OUTRIDER_POSTGRES_PASSWORD_FILE'],
])('takes %s for %s', (word, meant) => {
  expect(closest(word, ['port', 'setup', 'slot', 'OUTRIDER_SLOT', 'OUTRIDER_POSTGRES_PASSWORD_FILE'])).toBe(meant)
})

it.each(['x', '', 'everything', 'outage'])('takes %j for nothing', (word) => {
  expect(closest(word, ['port', 'setup', 'slot'])).toBeUndefined()
})
