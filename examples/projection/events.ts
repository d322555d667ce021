import { defineEvent } from 'outrider'
import { z } from 'zod'

/**
 * The whole state of a product, and its version. The event with the highest version contains everything; no other event of the product is needed.
 * The subject is the product's id.
 */
export const ProductChanged = defineEvent({
  stream: 'products',
  type: 'product.changed',
  version: 1,
  data: z.object({ version: z.int().positive(), name: z.string(), priceCents: z.int().nonnegative() }),
})
