import tls from 'node:tls'
import { readConfiguredFile } from '../base/secret.js'

/**
 * TLS with files in PEM form. Verification is never turned off: without `ca` the certificates that Node trusts are
 * used, and `serverName` is for a server that is reached under another name than its certificate bears.
 */
export interface TlsConfig {
  ca?: string
  cert?: string
  key?: string
  serverName?: string
}

/** Options for `tls.connect`. The files are read again for each connection, so that renewed certificates are picked up. */
export async function readTls(config: TlsConfig): Promise<tls.ConnectionOptions> {
  const { serverName } = config
  const [ca, cert, key] = await Promise.all([
    config.ca === undefined ? undefined : readConfiguredFile(config.ca, 'a CA certificate'),
    config.cert === undefined ? undefined : readConfiguredFile(config.cert, 'a client certificate'),
    config.key === undefined ? undefined : readConfiguredFile(config.key, 'the key of the client certificate'),
  ])
  return {
    // Said aloud, because NODE_TLS_REJECT_UNAUTHORIZED=0 in the environment would turn it off otherwise.
    rejectUnauthorized: true,
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
    ...(serverName === undefined
      ? {}
      : {
          servername: serverName,
          // pg sets `servername` to the host it dials, so the name that is checked is given here as well.
          checkServerIdentity: (_dialled: string, cert: tls.PeerCertificate) =>
            tls.checkServerIdentity(serverName, cert),
        }),
  }
}

const UNTRUSTED =
  'its certificate is not signed by a CA that is trusted here. Give the CA that signed it, or check that this is the right server'

const BY_CODE: Record<string, string> = {
  DEPTH_ZERO_SELF_SIGNED_CERT:
    'its certificate is self-signed. Give the certificate itself as the CA, or have it signed',
  SELF_SIGNED_CERT_IN_CHAIN: UNTRUSTED,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: UNTRUSTED,
  UNABLE_TO_GET_ISSUER_CERT: UNTRUSTED,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: UNTRUSTED,
  CERT_SIGNATURE_FAILURE: UNTRUSTED,
  CERT_HAS_EXPIRED: 'its certificate has expired. Renew it, or check the clock of this machine',
  CERT_NOT_YET_VALID: 'its certificate is not valid yet. Check the clock of this machine',
  CERT_REVOKED: 'its certificate was revoked. Renew it',
  ERR_TLS_CERT_ALTNAME_INVALID:
    'its certificate is made out to another name than the one that was dialled. Dial the name in the certificate, or set the server name in the TLS settings',
  ERR_SSL_WRONG_VERSION_NUMBER: 'it does not speak TLS on this port. Check the port, or leave TLS out of the URL',
  ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED: 'it requires a client certificate. Set cert and key in the TLS settings',
  ERR_SSL_KEY_VALUES_MISMATCH:
    'the client certificate and its key do not belong together. Check the cert and key files',
  ERR_OSSL_X509_KEY_VALUES_MISMATCH:
    'the client certificate and its key do not belong together. Check the cert and key files',
}

/** What is wrong with a TLS connection and what to do, as the rest of a sentence; undefined if it is no error of TLS. */
export function describeTlsError(code: string | undefined): string | undefined {
  if (code === undefined) return undefined
  const known = BY_CODE[code]
  if (known !== undefined) return known
  const ofTls = /^ERR_(TLS|SSL|OSSL|CRYPTO)_|CERT|^EPROTO$/.test(code)
  return ofTls ? `TLS could not be set up (${code}). Check the TLS settings on both sides` : undefined
}
