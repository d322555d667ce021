import { expect } from 'vitest'
import { freePort, until } from '../../testkit/services/index.js'
import { consumerTest as test } from '../consumer/consumer-env.js'
import { granted, startGuarded } from './acl.js'
import { consumerRoles, KEYS, Placed, work } from './redis-consumer.js'

// The other versions in redis-consumer.slow.test.ts.
consumerRoles(['7.0'])

test('in a cluster a worker needs one command more', async ({ env, skip }) => {
  const clustered = {
    'cluster-enabled': 'yes',
    'cluster-announce-ip': '127.0.0.1',
    'cluster-port': String(await freePort()),
  }
  const guarded = await startGuarded({ skip }, '7.0', ['consumer'], clustered)
  const { admin } = guarded
  await admin.call('CLUSTER', 'ADDSLOTSRANGE', '0', '16383')
  await until(async () => String(await admin.call('CLUSTER', 'INFO')).includes('cluster_state:ok'))
  const url = () => guarded.url('consumer').replace('redis:', 'redis+cluster:')
  await expect(
    env
      .consumer({ redis: url() })
      .on(Placed, async () => {})
      .start(),
  ).rejects.toThrow(/cluster\|slots/)
  await admin.call('ACL', 'SETUSER', 'billing', '+cluster|slots')
  await work({ ...guarded, url }, env, KEYS.partitioned, false)
  expect(await guarded.called()).toEqual([...granted('consumer'), 'cluster|slots'].sort())
})
