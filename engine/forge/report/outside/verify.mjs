// Verify Sigstore bundles with raw public keys: node verify.mjs BUNDLE KEY.pem [BUNDLE KEY.pem ..]
// One line each: "ok BUNDLE", or "refused BUNDLE: REASON" and in the end exit status 1.
// There is no certificate, no transparency log and no time stamp to ask for, so all thresholds are 0.
import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { bundleFromJSON } from "@sigstore/bundle";
import { Verifier, toSignedEntity } from "@sigstore/verify";

const pairs = process.argv.slice(2);
for (let at = 0; at < pairs.length; at += 2) {
  const [path, key] = [pairs[at], pairs[at + 1]];
  try {
    const publicKey = createPublicKey(readFileSync(key));
    const trust = {
      certificateAuthorities: [],
      timestampAuthorities: [],
      tlogs: [],
      ctlogs: [],
      publicKey: () => ({ publicKey, validFor: () => true }),
    };
    const thresholds = { ctlogThreshold: 0, tlogThreshold: 0, tsaThreshold: 0, timestampThreshold: 0 };
    new Verifier(trust, thresholds).verify(toSignedEntity(bundleFromJSON(JSON.parse(readFileSync(path, "utf8")))));
    console.log(`ok ${path}`);
  } catch (error) {
    console.log(`refused ${path}: ${error.message}`);
    process.exitCode = 1;
  }
}
