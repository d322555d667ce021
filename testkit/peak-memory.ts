import { readFileSync } from 'node:fs'

/** The most memory that a process ever had resident, in MiB, as the Linux kernel records it. */
export function peakMemoryMiB(pid: number): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
}
