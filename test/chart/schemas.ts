import { execFile } from 'node:child_process'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Ajv } from 'ajv'
import { parse } from 'yaml'
import { cached } from '../../testkit/services/folder.js'
import { orSkip, requireModule } from '../support/go.js'

/** The oldest version that the chart takes, and the newest. */
export const KUBERNETES_VERSIONS = ['1.29.6', '1.37.2'] as const

export type KubernetesVersion = (typeof KUBERNETES_VERSIONS)[number]

/** Where the definitions of custom resources are kept by those who make them. */
const CUSTOM = [
  {
    module: 'github.com/prometheus-operator/prometheus-operator',
    version: 'v0.85.0',
    folder: 'example/prometheus-operator-crd',
    files: /_(servicemonitors|podmonitors|prometheusrules)\.yaml$/,
  },
  {
    module: 'github.com/kedacore/keda/v2',
    version: 'v2.21.0',
    folder: 'config/crd/bases',
    files: /_(scaledobjects|triggerauthentications)\.yaml$/,
  },
]

export interface KubernetesObject {
  apiVersion: string
  kind: string
  metadata: { name: string; namespace?: string; labels?: Record<string, string>; annotations?: Record<string, string> }
  // biome-ignore lint/suspicious/noExplicitAny: the rest differs by kind, and the schemas look after it.
  [field: string]: any
}

export const nameOf = ({ kind, metadata }: KubernetesObject): string =>
  `${kind} ${metadata?.name ?? '(without a name)'}`

type Schema = { [key: string]: unknown }

/** What an API server of one version would say of an object's fields, and the operators of those of their own kinds. */
export class Schemas {
  readonly #ajv = new Ajv({ strict: false, validateFormats: false, allErrors: true, code: { regExp: goRegExp } })

  constructor(definitions: Schema) {
    this.#ajv.addSchema({ definitions }, ROOT)
  }

  /** Everything that is wrong with an object, each as a sentence; nothing where it is right. */
  problems(object: KubernetesObject): string[] {
    const validate = this.#ajv.getSchema(`${ROOT}#/definitions/${idOf(object.apiVersion, object.kind)}`)
    if (!validate)
      return [`${nameOf(object)}: expected a kind that is known, found ${object.apiVersion} ${object.kind}`]
    if (validate(object)) return []
    return (validate.errors ?? []).map(({ instancePath, message, params }) => {
      const field = 'additionalProperty' in params ? `: ${params.additionalProperty}` : ''
      return `${nameOf(object)}: ${instancePath || '/'} ${message}${field}`
    })
  }
}

/** Patterns are Go's, where a flag may stand within; JavaScript knows all else that is used. */
const goRegExp = Object.assign(
  (pattern: string) => new RegExp(pattern.replace('(?i)', ''), pattern.includes('(?i)') ? 'i' : ''),
  { code: 'goRegExp' },
)

const ROOT = 'kubernetes'
const FILE = 'schemas.json'

/** The schemas of a version for one test, or the test is skipped and says why. */
export const schemasOf = (context: { skip(note?: string): void }, version: KubernetesVersion): Promise<Schemas> =>
  orSkip(context, `the schemas of Kubernetes ${version}`, () => loadSchemas(version))

const loaded = new Map<KubernetesVersion, Promise<Schemas>>()

/** Throws `Unavailable` where they are not to be had. */
export function loadSchemas(version: KubernetesVersion): Promise<Schemas> {
  const promise = loaded.get(version) ?? readSchemas(version)
  loaded.set(version, promise)
  return promise
}

async function readSchemas(version: KubernetesVersion): Promise<Schemas> {
  // The last number grows with each change of what is made of the definitions.
  const folder = await cached(`kubernetes-schemas-${version}-2`, async (workshop) => {
    const definitions = [await readBuiltIn(version), ...(await Promise.all(CUSTOM.map(readCustom)))]
    await writeFile(join(workshop, FILE), JSON.stringify(Object.assign({}, ...definitions)))
  })
  return new Schemas(JSON.parse(await readFile(join(folder, FILE), 'utf8')))
}

async function readBuiltIn(version: KubernetesVersion): Promise<Schema> {
  const folder = await goModule('k8s.io/kubernetes', `v${version}`)
  const { definitions } = JSON.parse(await readFile(join(folder, 'api/openapi-spec/swagger.json'), 'utf8'))
  const known: Schema = {}
  for (const [name, schema] of Object.entries<Schema>(definitions)) {
    known[name] = name === QUANTITY ? ANY_QUANTITY : strict(schema)
    const kinds = schema['x-kubernetes-group-version-kind'] as { group: string; version: string; kind: string }[]
    // Those of several groups are no objects but what is said about them, such as DeleteOptions.
    if (kinds?.length !== 1) continue
    const { group, version, kind } = kinds[0]!
    known[idOf(group === '' ? version : `${group}/${version}`, kind)] = ofKind({ $ref: `#/definitions/${name}` })
  }
  return known
}

/** Called a string there, but a number is taken as well. */
const QUANTITY = 'io.k8s.apimachinery.pkg.api.resource.Quantity'
const ANY_QUANTITY = {
  anyOf: [
    { type: 'number' },
    { type: 'string', pattern: '^[+-]?(\\d+\\.?\\d*|\\.\\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\\d+)?$' },
  ],
}

async function readCustom({ module, version, folder, files }: (typeof CUSTOM)[number]): Promise<Schema> {
  const path = join(await goModule(module, version), folder)
  const known: Schema = {}
  for (const name of (await readdir(path)).filter((name) => files.test(name))) {
    const { spec } = parse(await readFile(join(path, name), 'utf8'))
    for (const version of spec.versions) {
      const schema = strict(version.schema.openAPIV3Schema) as { properties: Schema }
      schema.properties.metadata = { $ref: '#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta' }
      known[idOf(`${spec.group}/${version.name}`, spec.names.kind)] = ofKind(schema)
    }
  }
  return known
}

const idOf = (apiVersion: string, kind: string): string => `${apiVersion.replace('/', '.')}.${kind}`

/** Optional in the definitions, because the items of a list may leave them out. */
const ofKind = (schema: Schema): Schema => ({ allOf: [schema], required: ['apiVersion', 'kind', 'metadata'] })

/** Where there may be unknown fields, a definition says so or names no fields at all. */
function strict(schema: unknown): Schema {
  if (Array.isArray(schema)) return schema.map(strict) as never
  if (typeof schema !== 'object' || schema === null) return schema as never
  const { description, properties, ...rest } = schema as Schema
  const kept = Object.fromEntries(
    Object.entries(rest).map(([key, value]) => [key, key === 'default' || key === 'enum' ? value : strict(value)]),
  )
  if (kept.format === 'int-or-string' || kept['x-kubernetes-int-or-string']) {
    const { type, format, ...bounds } = kept
    return { ...bounds, anyOf: [{ type: 'integer' }, { type: 'string' }] }
  }
  if (properties === undefined) return kept
  kept.properties = Object.fromEntries(Object.entries(properties as Schema).map(([key, value]) => [key, strict(value)]))
  const open = kept['x-kubernetes-preserve-unknown-fields'] || kept.additionalProperties !== undefined
  return open ? kept : { ...kept, additionalProperties: false }
}

/** The folder of a module's files. They are read, not built: that might want a newer Go than is here. */
async function goModule(path: string, version: string): Promise<string> {
  await requireModule(path, version)
  const { stdout } = await promisify(execFile)('go', ['mod', 'download', '-json', `${path}@${version}`])
  return JSON.parse(stdout).Dir
}
