import { Counter, Gauge, type Registry } from 'prom-client'

/** A round of the self-audit. */
export interface SelfAuditRound {
  rows: number
  missing: number
  extra: number
  altered: number
  /** Rounds with findings, one after the other. */
  rounds: number
}

/** What the self-audit of the leader has compared, and found. */
export function createSelfAuditMetrics(registry: Registry) {
  const registers = [registry]
  const rows = new Counter({
    name: 'outrider_self_audit_rows_total',
    help: 'Rows of the outbox that the self-audit has compared with their streams',
    registers,
  })
  const findings = new Gauge({
    name: 'outrider_self_audit_findings',
    help: 'Events that the last round of the self-audit found to differ between the outbox and the streams',
    labelNames: ['kind'],
    registers,
  })
  const rounds = new Gauge({
    name: 'outrider_self_audit_finding_rounds',
    help: 'Rounds of the self-audit with findings, one after the other; 0 after one without',
    registers,
  })
  rounds.remove()
  return {
    set(round: SelfAuditRound): void {
      rows.inc(round.rows)
      for (const kind of ['missing', 'extra', 'altered'] as const) findings.set({ kind }, round[kind])
      rounds.set(round.rounds)
    },
    forget(): void {
      findings.reset()
      rounds.remove()
    },
  }
}
