import fc from 'fast-check'

const codePoint = fc
  .oneof(
    { weight: 3, arbitrary: fc.nat({ max: 0x7f }) },
    { weight: 2, arbitrary: fc.nat({ max: 0xd7ff }) },
    { weight: 1, arbitrary: fc.integer({ min: 0xe000, max: 0x10ffff }) },
  )
  .map((point) => String.fromCodePoint(point))

/** Whatever UTF-8 can say: NUL, byte order marks and emoji too. (`unit: 'binary'` says the same, and takes a second to build.) */
export const anyText = fc.oneof(
  { weight: 5, arbitrary: fc.string({ unit: codePoint }) },
  { weight: 1, arbitrary: fc.constantFrom('', '\0', '\ufeff{}', 'Zoë 🐎', '__proto__', 'constructor') },
)
