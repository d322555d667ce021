import { paint } from '../../src/cli/output.js'
import { table } from '../../src/cli/table.js'

/** Prints what happens, and after each step the checks and their results. */
export class Account {
  failed = 0

  heading(text: string): void {
    console.log(`\n${paint('bold', text)}`)
  }

  say(text: string): void {
    console.log(text.replace(/^(?=.)/gm, '  '))
  }

  /** The first row is the head. */
  table(rows: readonly (readonly string[])[]): void {
    this.say(table(rows).replace(/ +$/gm, ''))
  }

  check(promise: string, holds: boolean, found?: unknown): void {
    if (holds) {
      this.say(`${paint('green', '✔')} ${promise}`)
      return
    }
    this.failed += 1
    this.say(`${paint('red', '✘')} ${promise}${found === undefined ? '' : `; found ${JSON.stringify(found)}`}`)
  }
}
