import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { DASHBOARD, dashboardJson } from '../../scripts/dashboard.js'

// Where one of these fails: npm run generate
test.each([['charts/outrider/files/dashboard.json', DASHBOARD, dashboardJson]])(
  '%s is what its script writes',
  (_name, file, written) => {
    expect(readFileSync(file, 'utf8')).toBe(written())
  },
)
