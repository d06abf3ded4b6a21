// Verify Sigstore bundles with raw public keys: node verify.mjs BUNDLE KEY.pem [BUNDLE KEY.pem ..]
// One line each: "ok BUNDLE", or "refused BUNDLE: REASON" and in the end exit status 1.
// There is no certificate and no transparency log to ask for, so all thresholds are 0. Time stamps are verified where TSA_CHAIN
// names a PEM file with the authority's certificates, its own first and the self-signed one last; else they are left to openssl.
import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { bundleFromJSON } from "@sigstore/bundle";
import { X509Certificate } from "@sigstore/core";
import { Verifier, toSignedEntity } from "@sigstore/verify";

const pairs = process.argv.slice(2);
const pems = process.env.TSA_CHAIN ? readFileSync(process.env.TSA_CHAIN, "utf8").match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) : [];
const always = { start: new Date(0), end: new Date(8.64e15) };
const timestampAuthorities = pems.length ? [{ certChain: pems.map((pem) => X509Certificate.parse(pem)), validFor: always }] : [];
for (let at = 0; at < pairs.length; at += 2) {
  const [path, key] = [pairs[at], pairs[at + 1]];
  try {
    const publicKey = createPublicKey(readFileSync(key));
    const trust = {
      certificateAuthorities: [],
      timestampAuthorities,
      tlogs: [],
      ctlogs: [],
      publicKey: () => ({ publicKey, validFor: () => true }),
    };
    const thresholds = { ctlogThreshold: 0, tlogThreshold: 0, tsaThreshold: 0, timestampThreshold: 0 };
    const bundle = JSON.parse(readFileSync(path, "utf8"));
    if (!pems.length) delete bundle.verificationMaterial.timestampVerificationData;
    new Verifier(trust, thresholds).verify(toSignedEntity(bundleFromJSON(bundle)));
    console.log(`ok ${path}`);
  } catch (error) {
    console.log(`refused ${path}: ${error.message}`);
    process.exitCode = 1;
  }
}
