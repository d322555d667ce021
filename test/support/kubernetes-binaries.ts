import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { cached } from '../../testkit/services/folder.js'
import { announce, build, requireModule } from './go.js'

const module = 'k8s.io/kubernetes'
const version = 'v1.36.3'
const programs = ['kube-apiserver', 'kube-controller-manager']

/**
 * The folder with the API server and the controllers, built from their Go module the first time, which takes minutes.
 * Throws `Unavailable` where there is no Go, or no way to the modules.
 */
export function kubernetesFolder(): Promise<string> {
  return cached(`kubernetes-${version}-${process.arch}`, async (target) => {
    const goMod = await requireModule(module, version)
    announce(programs.join(' and '), version)
    const source = join(target, '.source')
    mkdirSync(source)
    writeModule(source, readFileSync(goMod, 'utf8'))
    const packages = programs.map((program) => `${module}/cmd/${program}`)
    await build(['build', '-mod=mod', `-ldflags=${linkerFlags()}`, '-o', target, ...packages], source)
    rmSync(source, { recursive: true })
  })
}

/**
 * `go install` takes no module that replaces others, and Kubernetes replaces its parts by folders of its own. A module
 * of ours replaces them by the same parts as they are published, as v0.x.
 */
function writeModule(folder: string, kubernetes: string): void {
  const [goVersion = ''] = /^go .*$/m.exec(kubernetes) ?? []
  const parts = [...kubernetes.matchAll(/^\s*(k8s\.io\/\S+) => \.\/staging\//gm)].map(([, part]) => part)
  const replacements = parts.map((part) => `replace ${part} => ${part} ${version.replace('v1.', 'v0.')}`)
  const lines = ['module kubernetes.test', goVersion, `require ${module} ${version}`, ...replacements]
  writeFileSync(join(folder, 'go.mod'), `${lines.join('\n')}\n`)
}

/** The version is what clients ask for, Helm among them; its own build writes it in the same way. */
function linkerFlags(): string {
  const [major, minor] = version.slice(1).split('.')
  const values = { gitVersion: version, gitMajor: major, gitMinor: minor }
  const settings = Object.entries(values).map(([name, value]) => `-X k8s.io/component-base/version.${name}=${value}`)
  return ['-s -w', ...settings].join(' ')
}
