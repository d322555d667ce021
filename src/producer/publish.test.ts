import { expect, it } from 'vitest'
import { z } from 'zod'
import { defineEvent } from '../event/define.js'
import { publish } from './publish.js'

it('has sent its INSERT when it returns, so that a COMMIT that follows at once comes after it', async () => {
  const event = defineEvent({ stream: 'orders', type: 'order.placed', version: 1, data: z.number() })
  const sent: string[] = []
  const tx = { query: async (text: string, values: string[]) => sent.push(text, ...values) }
  const published = publish(tx, event, [{ data: 1 }, { data: 2 }])
  expect(sent).toEqual([expect.stringContaining('insert into outrider.outbox'), expect.stringContaining('"data":"2"')])
  await published
})
