import { generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto'
import { isIP } from 'node:net'

/** Certificates for tests, made here because neither Node nor a bare machine has a tool for it. Only what TLS needs of RFC 5280. */
export interface Certificate {
  /** PEM */
  cert: string
  /** PEM */
  key: string
}

export interface CertificateOptions {
  /** Host names or addresses it is made out to; none for an authority. */
  names?: string[]
  /** Who signs it; itself by default. */
  signedBy?: Authority
  expires?: Date
}

export interface Authority extends Certificate {
  readonly name: string
  readonly privateKey: KeyObject
}

const DAY = 86_400_000

export function createCertificate(options: CertificateOptions = {}): Authority {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' })
  const name = `outrider test ${randomBytes(4).toString('hex')}`
  const { names = [], signedBy = { name, privateKey }, expires = new Date(Date.now() + DAY) } = options
  const body = sequence(
    tagged(0xa0, integer(Buffer.from([2]))),
    integer(Buffer.from([1, ...randomBytes(8)])),
    ECDSA_WITH_SHA256,
    commonName(signedBy.name),
    sequence(time(new Date(expires.getTime() - 2 * DAY)), time(expires)),
    commonName(name),
    publicKey.export({ type: 'spki', format: 'der' }),
    tagged(0xa3, sequence(names.length > 0 ? alternativeNames(names) : AUTHORITY)),
  )
  const signature = sign('sha256', body, signedBy.privateKey)
  const cert = sequence(body, ECDSA_WITH_SHA256, tagged(0x03, Buffer.from([0]), signature))
  return {
    name,
    privateKey,
    cert: `-----BEGIN CERTIFICATE-----\n${cert.toString('base64').replace(/.{64}/g, '$&\n')}\n-----END CERTIFICATE-----\n`,
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  }
}

/** DER: a tag, a length, and what is in it. */
function tagged(tag: number, ...parts: Buffer[]): Buffer {
  const content = Buffer.concat(parts)
  const { length } = content
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255]
  return Buffer.concat([Buffer.from([tag, ...size]), content])
}

const sequence = (...parts: Buffer[]) => tagged(0x30, ...parts)
const integer = (bytes: Buffer) => tagged(0x02, bytes)
const oid = (hex: string) => tagged(0x06, Buffer.from(hex, 'hex'))
const time = (date: Date) => tagged(0x18, Buffer.from(date.toISOString().replace(/[-:T]|\.\d+/g, '')))
const commonName = (name: string) => sequence(tagged(0x31, sequence(oid('550403'), tagged(0x0c, Buffer.from(name)))))

const ECDSA_WITH_SHA256 = sequence(oid('2a8648ce3d040302'))

/** basicConstraints, critical: an authority. */
const AUTHORITY = sequence(
  oid('551d13'),
  tagged(0x01, Buffer.from([255])),
  tagged(0x04, sequence(tagged(0x01, Buffer.from([255])))),
)

function alternativeNames(names: string[]): Buffer {
  const each = names.map((name) =>
    isIP(name) === 4 ? tagged(0x87, Buffer.from(name.split('.').map(Number))) : tagged(0x82, Buffer.from(name)),
  )
  return sequence(oid('551d11'), tagged(0x04, sequence(...each)))
}
