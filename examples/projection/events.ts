import { defineEvent } from 'outrider'
import { z } from 'zod'

/**
 * The whole state of a product, and which version of it that is: whoever has the event with the highest version needs no other.
 * The subject is the product's id.
 */
export const ProductChanged = defineEvent({
  stream: 'products',
  type: 'product.changed',
  version: 1,
  data: z.object({ version: z.int().positive(), name: z.string(), priceCents: z.int().nonnegative() }),
})
