import { chaosTest } from './chaos.js'

chaosTest({ events: 50_000, kills: 20, freezes: 3 })
