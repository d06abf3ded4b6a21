// What the outside verifiers do not do: say which key each signature needs, and whether the signed statements fit together.
// Node.js alone, no library. It signs nothing and asks no network.
//   node check.mjs prepare sha256:DIGEST   the pinned trust root -> work/: keys by role, and lists for openssl, sigstore, ssh, git
//                                          TSA_PEM: a file with the certificates of the time-stamping authority that you trust
//   node check.mjs verdict                 after the signatures were verified: do the statements carry this release?
//   node check.mjs show FILE               the statement inside an envelope or a bundle, for people
// Nothing is taken from index.json but what Forge found at fault: roles and keys come from what the root has signed.
import { createHash, createPublicKey } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const ROLE_OF = { curate: "data-steward", tokenizer: "trainer", tokenize: "trainer", train: "trainer", sweep: "trainer", evaluate: "evaluator", gate: "evaluator", release: "releaser" };
const PLAIN = /^[A-Za-z0-9._@+-]+$/;

class Refused extends Error {}
const refuse = (text) => { throw new Refused(text); };
const need = (held, text) => held || refuse(text);
const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const bare = (digest) => (/^sha256:[0-9a-f]{64}$/.test(digest ?? "") ? digest.slice(7) : refuse(`not a digest: ${digest}`));
const json = (path) => JSON.parse(readFileSync(path, "utf8"));
const list = (folder) => (existsSync(folder) ? readdirSync(folder).sort().map((name) => `${folder}/${need(PLAIN.test(name) && name, `odd name in ${folder}: ${JSON.stringify(name)}`)}`) : []);
const same = (one, other) => JSON.stringify(sorted(one)) === JSON.stringify(sorted(other));
const sorted = (value) => Array.isArray(value) ? value.map(sorted)
  : value && typeof value === "object" ? Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])])) : value;

const envelopeOf = (path) => { const found = json(path); return found.dsseEnvelope ?? found; };
const payloadOf = (envelope) => JSON.parse(Buffer.from(envelope.payload, "base64").toString("utf8"));
const paeOf = (envelope) => {
  const payload = Buffer.from(envelope.payload, "base64");
  return Buffer.concat([Buffer.from(`DSSEv1 ${Buffer.byteLength(envelope.payloadType)} ${envelope.payloadType} ${payload.length} `), payload]);
};

// A key as securesystemslib names it: the sha256 of its canonical description.
function keyidOf(pem) {
  const key = createPublicKey(pem);
  const ed25519 = key.asymmetricKeyType === "ed25519";
  const text = ed25519 ? Buffer.from(key.export({ format: "jwk" }).x, "base64url").toString("hex") : key.export({ type: "spki", format: "pem" });
  const [keytype, scheme] = ed25519 ? ["ed25519", "ed25519"] : ["ecdsa", "ecdsa-sha2-nistp256"];
  return sha256(JSON.stringify({ keytype, keyval: { public: text }, scheme }).replaceAll("\\n", "\n"));
}
const isWeightsKey = (pem) => createPublicKey(pem).asymmetricKeyType === "ec";
const pemOf = (key) => key.keytype !== "ed25519" ? key.public
  : createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x: Buffer.from(key.public, "hex").toString("base64url") }, format: "jwk" }).export({ type: "spki", format: "pem" });

// ---- who may sign what: the pinned root, its signed successors, and the supply chain that the root in force has signed
function readTrust(pinned) {
  need(sha256(readFileSync("trust/trust-root.json")) === bare(pinned), `trust/trust-root.json is not the trust root that you were given (${pinned})`);
  const checks = [];
  let root = json("trust/trust-root.json");
  const signedByRoot = (path, keys) => {
    const envelope = envelopeOf(path);
    const found = envelope.signatures.flatMap((row) => keys.filter((key) => key.keyid === row.keyid).map((key) => ({ path, envelope, row, pem: pemOf(key) })));
    need(found.length, `${path}: not signed by the root`);
    checks.push(...found);
    return payloadOf(envelope);
  };
  const keys = [...(root.roles.root ?? [])];
  for (let number = 1; existsSync(`trust/root-change-${number}.by-previous.json`); number += 1) {
    const change = signedByRoot(`trust/root-change-${number}.by-previous.json`, root.roles.root ?? []);
    need(change.version === number && bare(change.previous) === sha256(JSON.stringify(sorted(root))), `root change ${number} does not follow`);
    need(same(signedByRoot(`trust/root-change-${number}.by-itself.json`, change.root.roles.root ?? []), change), `root change ${number}: the new root signed something else`);
    root = change.root;
    keys.push(...(root.roles.root ?? []));
  }
  let [charter, since] = [null, 1]; // it may be older than the last change of the root: which came first, the ledger's order says
  if (existsSync("trust/delegation.json")) {
    const delegation = signedByRoot("trust/delegation.json", keys);
    need(delegation.predicateType === "urn:forge:delegation:v1", "trust/delegation.json: not a delegation");
    charter = delegation.predicate.charter;
    since = delegation.predicate.statements ?? 1;
    const layout = signedByRoot("in-toto/root.layout", keys);
    const { digest } = delegation.predicate;
    need(bare(digest) === sha256(JSON.stringify(sorted(charter))), "trust/delegation.json: its digest is not its charter's");
    const shapes = shapesOfLinks().filter((shape) => (charter.supply_chain.shapes ?? ["pretrain"]).includes(shape));
    need(layout._type === "layout" && shapes.some((shape) => layout.readme === `Forge, shape ${shape}, charter ${digest}`), `in-toto/root.layout: the root signed it as ${JSON.stringify(layout.readme)}; expected the shape ${shapes.join(" or ") || "that the charter lists"} and the charter ${digest}`);
  }
  return { root, charter, since, checks };
}

// Which layout the root signed for a chain such as this one. What the links say, in-toto-verify then holds against that layout.
// sft and dpo differ in what is learnt from the files, which no path tells: their layouts have the same rules.
// A search is told by its own links, whatever the rest is.
function shapesOfLinks() {
  const links = list("in-toto/links").map((path) => payloadOf(envelopeOf(path)));
  const has = (kind) => links.some((link) => link.name === kind);
  return directShapes(links, has).map((shape) => (has("sweep") ? `${shape}-sweep` : shape));
}

function directShapes(links, has) {
  const reads = (kinds, start) => links.some((link) => kinds.includes(link.name) && Object.keys(link.materials).some((path) => path.startsWith(start)));
  if (!reads(["tokenize", "train"], "commit/Model/")) return [reads(["train"], "train/") ? "continue" : "pretrain"];
  if (has("tokenizer")) return ["sft", "dpo"];
  return has("tokenize") ? ["continue-imported"] : ["sft-imported", "dpo-imported"];
}

function keysOf(role, { root, charter }) {
  const listed = role === "weights" ? (charter?.supply_chain.roles.trainer?.keys ?? []).filter((key) => isWeightsKey(key.public)) : charter?.supply_chain.roles[role]?.keys ?? [];
  if (listed.length) return listed.map((key) => ({ ...key, pem: key.public, keyid: keyidOf(key.public) }));
  if (charter && !root.development) return [];
  return (role === "weights" ? root.weights.map((pem) => ({ pem })) : (root.roles[role] ?? []).map((key) => ({ pem: pemOf(key) }))).map((key) => ({ ...key, keyid: keyidOf(key.pem) }));
}

// Which step a statement is about follows from what it says, never from its file's name.
function kindOf(payload) {
  if (payload._type === "link") return payload.name.split("/")[0];
  switch (payload.predicateType) {
    case "https://slsa.dev/provenance/v1": return /^urn:forge:step:([a-z]+):v[0-9]+$/.exec(payload.predicate.buildDefinition.buildType)?.[1];
    case "https://in-toto.io/attestation/test-result/v0.1": return "evaluate";
    case "https://in-toto.io/attestation/svr/v0.2": return "gate";
    case "https://slsa.dev/verification_summary/v1": case "urn:forge:release:v1": return "release";
    case "https://model_signing/signature/v1.0": return "weights";
  }
  return undefined;
}

function roleOf(kind, charter) {
  if (kind === "weights") return "weights";
  if (charter) return Object.entries(charter.supply_chain.roles).find(([, rules]) => stepsOf(rules, charter).includes(kind))?.[0];
  return ROLE_OF[kind];
}

// A supply chain that gives `sweep` to nobody gives it to whoever trains.
function stepsOf({ steps = [] }, charter) {
  const searches = Object.values(charter.supply_chain.roles).some((rules) => (rules.steps ?? []).includes("sweep"));
  return !searches && steps.includes("train") ? [...steps, "sweep"] : steps;
}

function attestations(trust) {
  return list("attestations").map((path) => {
    const envelope = envelopeOf(path);
    const payload = payloadOf(envelope);
    const role = roleOf(need(kindOf(payload), `${path}: a statement of no known kind`), trust.charter);
    const keys = keysOf(role, trust);
    const signed = envelope.signatures.flatMap((row) => keys.filter((key) => key.keyid === row.keyid).map((key) => ({ row, key })));
    need(signed.length, `${path}: not signed by a key of the role ${role}`);
    return { path, envelope, payload, role, signed };
  });
}

function prepare(pinned) {
  rmSync("work", { recursive: true, force: true });
  for (const name of ["keys", "pae", "sig", "tsr", "empty"]) mkdirSync(`work/${name}`, { recursive: true });
  const trust = readTrust(pinned);
  const [openssl, sigstore] = [[], []];
  const keyFile = (pem) => { const path = `work/keys/${keyidOf(pem)}.pem`; writeFileSync(path, pem); return path; };
  const plain = (path, envelope, row, pem) => {
    const name = `${openssl.length + 1}`.padStart(3, "0");
    writeFileSync(`work/pae/${name}`, paeOf(envelope));
    writeFileSync(`work/sig/${name}`, Buffer.from(row.sig, "base64"));
    openssl.push(`work/pae/${name} work/sig/${name} ${keyFile(pem)} ${path}`);
  };
  for (const check of trust.checks) plain(check.path, check.envelope, check.row, check.pem);
  for (const { path, envelope, signed } of attestations(trust)) {
    for (const { row, key } of signed) {
      if (path.endsWith(".sigstore.json")) sigstore.push(`${path} ${keyFile(key.pem)}`);
      else plain(path, envelope, row, key.pem);
    }
  }
  const layout = trust.checks.find((check) => check.path === "in-toto/root.layout");
  if (layout) writeFileSync("work/keys/root.pem", layout.pem);
  const people = trust.charter?.people?.people ?? [];
  const allowed = (file, namespace, counts) => {
    const rows = people.flatMap((person) => person.keys.filter(counts).map((key) => `${person.name} namespaces="${namespace}" ${key.public.split(" ").slice(0, 2).join(" ")}\n`));
    writeFileSync(file, rows.join(""));
    return file;
  };
  allowed("work/authors.allowed", "git", (key) => !key.revoked);
  const statements = list("approvals").filter((path) => path.endsWith(".json.sig")).map((path) => path.slice(0, -4));
  const approvals = statements.map((path, number) => {
    const { person, given } = json(path).predicate;
    need(PLAIN.test(person), `${path}: no name`);
    return `${person} ${path} ${allowed(`work/approvers-${number}.allowed`, "forge-approval", (key) => isInForce(key, given))}\n`;
  });
  const stamps = stampsOf(trust);
  writeFileSync("work/timestamps.list", process.env.TSA_PEM ? stamps.map((row) => `${row}\n`).join("") : "");
  writeFileSync("work/openssl.list", openssl.map((row) => `${row}\n`).join(""));
  writeFileSync("work/sigstore.list", sigstore.map((row) => `${row}\n`).join(""));
  writeFileSync("work/approvals.list", approvals.join(""));
  writeFileSync("work/commits.list", list("commits").map((path) => `${/([0-9a-f]{40})\.commit$/.exec(path)?.[1] ?? refuse(path)}\n`).join(""));
  writeFileSync("work/trust-root", `${pinned}\n`);
  console.log(`${openssl.length} envelopes for openssl, ${sigstore.length} bundles for sigstore, ${statements.length} approvals`);
  if (stamps.length) console.log(process.env.TSA_PEM ? `${stamps.length} time stamps for openssl` : `note    ${stamps.length} time stamps are not checked: TSA_PEM names no authority`);
}

// The time stamps: a signature, the authority's answer about it, and whose it is. What the supply chain requires has to be there.
function stampsOf(trust) {
  const required = trust.charter?.supply_chain.timestamps === "required";
  need(!required || process.env.TSA_PEM, "the supply chain requires time stamps: set TSA_PEM to the certificates of the authority that you trust");
  const rows = [];
  for (const { path, envelope, payload } of attestations(trust)) {
    if (!path.endsWith(".sigstore.json")) continue;
    const tokens = tokensOf(path);
    // whether a record is older than the supply chain, the ledger's order says; a release never is
    need(tokens.length || !required || !(payload.predicateType ?? "").match(/^(urn:forge:release:v1|https:\/\/slsa\.dev\/verification_summary\/v1)$/), `${path}: it carries no time stamp, and the supply chain requires one`);
    for (const token of tokens) {
      const name = `${rows.length + 1}`.padStart(3, "0");
      writeFileSync(`work/sig/stamped-${name}`, Buffer.from(envelope.signatures[0].sig, "base64"));
      writeFileSync(`work/tsr/${name}`, token);
      rows.push(`work/sig/stamped-${name} work/tsr/${name} ${path}`);
    }
  }
  for (const path of list("approvals").filter((each) => each.endsWith(".json.sig"))) {
    const has = existsSync(`${path}.tsr`);
    need(has || !required, `${path}: it carries no time stamp, and the supply chain requires one`);
    if (has) rows.push(`${path} ${path}.tsr ${path}`);
  }
  return rows;
}

// The digest of a bundle as the ledger has it: a time stamp is put into it when it is exported.
function unstamped(path) {
  const { timestampVerificationData: _, ...material } = json(path).verificationMaterial ?? {};
  return sha256(JSON.stringify(sorted({ ...json(path), verificationMaterial: material })));
}

function tokensOf(path) {
  const found = path.endsWith(".sigstore.json") ? json(path).verificationMaterial?.timestampVerificationData?.rfc3161Timestamps ?? [] : [];
  return found.map((row) => Buffer.from(row.signedTimestamp, "base64"));
}

// ---- do the statements carry this release?
const digestOf = (subject) => subject.digest.sha256;
const manifestOf = (digest) => {
  const data = readFileSync(`artifacts/${digest}/manifest.json`);
  need(sha256(data) === digest, `artifacts/${digest}/manifest.json has other bytes than its name says`);
  return JSON.parse(data.toString("utf8"));
};
const documentOf = (digest, name) => {
  const file = manifestOf(digest).files.find((each) => each.path === name);
  const data = readFileSync(`artifacts/${digest}/${name}`);
  need(file && sha256(data) === bare(file.sha256), `artifacts/${digest}/${name} has other bytes than its manifest says`);
  return JSON.parse(data.toString("utf8"));
};

function isInForce(key, moment) {
  const at = Date.parse(moment);
  return at >= Date.parse(key.valid_from ?? 0) && [key.valid_until, key.revoked].every((end) => !end || at < Date.parse(end));
}

function verdict() {
  const trust = readTrust(readFileSync("work/trust-root", "utf8").trim());
  const found = attestations(trust);
  const index = json("index.json");
  const ok = (text) => console.log(`ok      ${text}`);
  const of = (type) => found.filter((item) => item.payload.predicateType === type && item.path.endsWith(".sigstore.json"));
  const one = (type) => { const items = of(type); need(items.length >= 1 && items.every((item) => same(item.payload, items[0].payload)), `expected one statement of type ${type}, found ${items.length}`); return items[0].payload; };
  for (const item of found) {
    const times = [item.payload.predicate?.runDetails?.metadata?.finishedOn, item.payload.predicate?.timeCreated, item.payload.predicate?.timeVerified, item.payload.predicate?.moved];
    for (const { key } of item.signed) for (const moment of times.filter(Boolean)) need(isInForce(key, moment), `${item.path}: signed ${moment}, when its key was not valid`);
  }
  ok(`${found.length} files are signed by the roles that may sign them`);

  const release = one("urn:forge:release:v1");
  const { environment, deployment, commit, moved } = release.predicate;
  const releaseDigest = bare(release.predicate.release);
  need(digestOf(release.subject[0]) === releaseDigest && release.subject[0].name === `release/${environment}`, "the release's subject is another release");
  const document = documentOf(releaseDigest, "release.json");
  const [weights, decision] = [bare(document.weights), bare(document.verdict)];
  need(document.environment === environment && document.deployment === deployment, "release.json is about another environment");
  const summary = one("https://slsa.dev/verification_summary/v1");
  need(same(summary.subject.map(digestOf), [releaseDigest, weights]), "the verification summary is about another release");
  need(summary.predicate.verificationResult === "PASSED" && summary.predicate.timeVerified === moved && summary.predicate.policy.digest.gitCommit === commit, "the verification summary is another move's");
  const have = new Set(list("attestations").flatMap((path) => [sha256(readFileSync(path)), unstamped(path), ...tokensOf(path).map(sha256)]));
  for (const input of summary.predicate.inputAttestations) need(have.has(digestOf(input)), `the attestation ${input.name} (${digestOf(input)}) is absent from this bundle`);
  ok(`release/${environment}: the releaser moved it to commit ${commit} at ${moved}; all ${summary.predicate.inputAttestations.length} attestations that the summary names are here`);

  const made = new Map();
  for (const item of of("https://slsa.dev/provenance/v1")) for (const subject of item.payload.subject) made.set(digestOf(subject), kindOf(item.payload));
  for (const item of of("https://in-toto.io/attestation/test-result/v0.1")) made.set(digestOf(item.payload.predicate.report), "evaluate");
  for (const item of found) {
    const read = item.payload.predicate?.buildDefinition?.resolvedDependencies ?? item.payload.predicate?.configuration ?? [];
    for (const each of read.filter((row) => !/^(commit(\/.*)?|lock|byproduct\/.*)$/.test(row.name))) need(made.has(digestOf(each)), `${item.path} reads ${each.name}, which no signed step of this bundle made`);
  }
  need(made.get(weights) === "train", `no training in this bundle made the weights ${weights}`);
  const said = new Set(found.flatMap(({ payload: { _type, byproducts, predicate } }) => [
    _type === "link" && typeof byproducts.record === "string" ? bare(byproducts.record) : null,
    ...(predicate?.runDetails?.byproducts ?? []).filter((row) => row.name === "record").map(digestOf),
    predicate?.record?.digest.sha256,
  ]));
  for (const path of list("records")) need(said.has(sha256(readFileSync(path))), `${path}: no signed statement names a record with these bytes`);
  ok("every input of every step was made by a signed step, or lies in a commit");

  const kind = (name) => of("https://slsa.dev/provenance/v1").filter(({ payload }) => kindOf(payload) === name);
  const trainings = kind("train").map(({ payload }) => payload);
  const tests = of("https://in-toto.io/attestation/test-result/v0.1").map(({ payload }) => payload);
  const picked = new Set();
  for (const item of kind("sweep")) judgeSearch(item, { trainings, tests }, picked, ok);
  judgePicked(weights, trainings, picked);

  const files = manifestOf(weights).files.map((file) => [file.path, bare(file.sha256)]);
  need(files.every(([path]) => !/[\\\n\r\0]/.test(path)), "odd names among the weights");
  need(readFileSync("weights.sha256", "utf8") === files.map(([path, hash]) => `${hash}  ${path}\n`).join(""), "weights.sha256 is not the list of the signed weights");
  const signed = of("https://model_signing/signature/v1.0").map((item) => item.payload.predicate.resources.map((row) => [row.name, row.digest]));
  need(signed.some((rows) => same(rows.sort(), [...files].sort())), "no OpenSSF model signature is over these weights");
  ok(`the model signature, weights.sha256 and the release name the same ${files.length} files of weights`);

  const gate = of("https://in-toto.io/attestation/svr/v0.2").find((item) => item.payload.subject.some((subject) => digestOf(subject) === weights) && digestOf(item.payload.predicate["urn:forge:verdict"]) === decision);
  need(gate, "no gate's result is about these weights and this verdict");
  const result = gate.payload.predicate;
  need(result.properties.includes("FORGE_GATE_GO") && result["urn:forge:verdict"].verdict === "GO", "the gate does not say GO");
  const reports = result["urn:forge:verdict"].reports.map((row) => {
    const tested = of("https://in-toto.io/attestation/test-result/v0.1").some((item) => digestOf(item.payload.predicate.report) === digestOf(row) && digestOf(item.payload.subject[0]) === weights);
    need(tested, `${row.name}: no evaluation of these weights gave it`);
    return [row.name, documentOf(digestOf(row), "report.json")];
  });
  const { verdict: word, checks } = documentOf(decision, "verdict.json");
  need(word === "GO" && checks.length > 0, "verdict.json does not say GO");
  for (const { suite } of trust.charter?.supply_chain.release?.evaluations ?? []) need(checks.some((check) => check.suite === suite), `the supply chain asks for ${suite}, which the verdict does not judge`);
  for (const check of checks) {
    const suite = check.suite.split("/")[1];
    const report = reports.find(([name, each]) => name.split("/")[1].endsWith(`.${suite}`) && each.tasks[check.task])?.[1];
    const value = report?.settings.diverged_at_step === undefined ? report?.tasks[check.task].metrics[check.metric] : null;
    need(typeof value === "number" && value === check.value && check.passed && (check.bound === "min" ? value >= check.threshold : value <= check.threshold), `${check.suite} ${check.task} ${check.metric}: ${value} does not keep ${check.bound} ${check.threshold}`);
    ok(`${check.task} ${check.metric}: ${value} keeps ${check.bound} ${check.threshold}`);
  }

  if (trust.charter) {
    const link = payloadOf(envelopeOf(list("in-toto/links").find((path) => path.startsWith("in-toto/links/release.")) ?? refuse("no link of the release")));
    const path = `release/${deployment}/release/release.json`;
    need(link.products[path]?.sha256 === bare(manifestOf(releaseDigest).files.find((file) => file.path === "release.json").sha256), "the layout's links are those of another release");
    ok("the links that the layout was held against end in this release");
    judgeThresholds(trust.charter, found, ok);
    judgeApprovals(trust.charter, release.predicate, weights, decision, ok);
    judgePlans(trust, release.predicate, ok);
  } else {
    need(trust.root.development, "the root has signed no supply chain");
    console.log("note    no supply chain: this root knows neither layout nor approvals");
  }
  for (const finding of index.findings) console.log(`FORGE   ${finding}`);
  need(index.holds === true && index.findings.length === 0, "Forge itself found this at fault when it wrote the bundle");
  console.log(`VERDICT release/${environment}: the chain holds${trust.root.development ? " (DEVELOPMENT trust root)" : ""}`);
}

// The best trial of a search is the one that it picked, of equal ones the first. Its reports are told from the statements: each is
// about weights of a training that read this trial's values. What was drawn lies in its space; the first trial is as written.
function judgeSearch({ path, payload }, statements, picked, ok) {
  const { externalParameters, resolvedDependencies: read } = payload.predicate.buildDefinition;
  const { pick, objective, values, space } = externalParameters.parameters;
  const chosen = digestOf(payload.subject.find((row) => row.name.endsWith("/hyperparameters")));
  if (pick !== "best") {
    const found = documentOf(chosen, "hyperparameters.json").values;
    const fields = Object.keys(space ?? values);
    const fits = (field) => (space ? isIn(space[field], found[field]) : found[field] === values[field]);
    need(fields.length === Object.keys(found).length && fields.every(fits), `${path}: it chose ${JSON.stringify(found)}, which it was not to choose`);
    return;
  }
  const numbered = (pattern) => new Map(read.flatMap((row) => { const found = pattern.exec(row.name); return found ? [[Number(found[1]), digestOf(row)]] : []; }));
  const [reports, hyperparameters] = [numbered(/^evaluate\/[^/.]+\.([0-9]+)\.[^/.]+\/report$/), numbered(/^sweep\/[^/.]+\.([0-9]+)\/hyperparameters$/)];
  need(reports.size > 0 && reports.size === hyperparameters.size, `${path}: a search whose trials have no reports`);
  const sign = objective.direction === "minimize" ? 1 : -1;
  let best;
  for (const [number, digest] of [...reports].sort(([one], [other]) => one - other)) {
    const weights = statements.tests.filter((test) => digestOf(test.predicate.report) === digest).map((test) => digestOf(test.subject[0]));
    const trained = statements.trainings.some((each) => each.subject.some((row) => weights.includes(digestOf(row))) && reads(each, hyperparameters.get(number)));
    need(trained, `${path}: the report of trial ${number} is about no training with that trial's values`);
    const report = documentOf(digest, "report.json");
    const value = report.settings.diverged_at_step === undefined ? report.tasks[objective.task]?.metrics[objective.metric] : null;
    if (typeof value === "number" && (best === undefined || sign * value < sign * best.value)) best = { number, value };
  }
  need(best !== undefined && hyperparameters.get(best.number) === chosen, `${path}: the best of its ${reports.size} trials is trial ${best?.number}, and it picked another`);
  picked.add(chosen);
  ok(`a search picked the best of its ${reports.size} trials: trial ${best.number}, ${objective.task} ${objective.metric} ${best.value}`);
}

const reads = (training, digest) => training.predicate.buildDefinition.resolvedDependencies.some((row) => digestOf(row) === digest);
const isIn = ({ choices, low, high }, value) => (choices ? choices.includes(value) : typeof value === "number" && value >= low && value <= high);

// Whatever a search chose for the weights that are released, or for one of their bases, is what a search picked.
function judgePicked(weights, trainings, picked) {
  const pending = [weights];
  const seen = new Set();
  while (pending.length) {
    const digest = pending.pop();
    if (seen.has(digest)) continue;
    seen.add(digest);
    for (const training of trainings.filter((each) => each.subject.some((row) => digestOf(row) === digest))) {
      const { externalParameters, resolvedDependencies: read } = training.predicate.buildDefinition;
      const chosen = read.filter((row) => row.name.endsWith("/hyperparameters"));
      need(!externalParameters.parameters.sweep || (chosen.length === 1 && picked.has(digestOf(chosen[0]))), `the weights ${digest} were trained with values that no search picked`);
      pending.push(...read.filter((row) => row.name.endsWith("/weights")).map(digestOf));
    }
  }
}

// in-toto-verify has counted keys; a threshold is about functionaries, of whom one may hold several. A P-256 key of the trainer
// that is nobody's signs weights.
function judgeThresholds(charter, found, ok) {
  for (const [role, rules] of Object.entries(charter.supply_chain.roles)) {
    const { threshold = 1 } = rules;
    for (const kind of threshold > 1 ? stepsOf(rules, { supply_chain: charter.supply_chain }) : []) {
      const path = list("in-toto/links").find((each) => each.startsWith(`in-toto/links/${kind}.`));
      if (!path) continue; // which kinds of step there have to be, the layout says
      const said = payloadOf(envelopeOf(path));
      const links = found.filter(({ payload }) => payload._type === "link" && payload.name === kind && same(payload, said));
      const keys = links.flatMap((item) => item.signed.map(({ key }) => key)).filter((key) => key.holder || role !== "trainer" || !isWeightsKey(key.pem));
      const people = new Set(keys.map((key) => key.holder ?? key.keyid));
      need(people.size >= threshold, `${kind} needs ${threshold} functionaries and has ${people.size}`);
      ok(`${kind}: ${people.size} functionaries made the same of the same, ${threshold} needed`);
    }
  }
}

// Duties that an approver may not have as well, and the people whose keys sign as such a role.
function keptApart(chain) {
  const duties = new Set((chain.separation_of_duties ?? []).filter((group) => group.includes("approver")).flat());
  const holders = Object.entries(chain.roles).filter(([role]) => duties.has(role)).flatMap(([, rules]) => (rules.keys ?? []).map((key) => key.holder).filter(Boolean));
  return { duties, holders };
}

// An approval that the ledger's entry names, as the person signed it; what signed it, ssh-keygen has said.
function approvalOf(digest, who) {
  const path = list("approvals").find((each) => each.endsWith(".entry.json") && sha256(readFileSync(each)) === bare(digest)) ?? refuse(`the approval ${digest} that ${who} names is absent`);
  const { attestations: _, ...said } = json(path).body;
  const stem = path.slice(0, -".entry.json".length);
  need(existsSync(`${stem}.json.sig`) && same(json(`${stem}.json`).predicate, said), `the approval of ${said.person} was not signed as the ledger says`);
  return { given: said, stem };
}

// What was made under plans that people approved. Who wrote what such a plan brings, and whether it was carried out twice, the
// ledger tells and a bundle does not.
function judgePlans({ charter, since }, release, ok) {
  const chain = charter.supply_chain;
  const { holders } = keptApart(chain);
  const records = list("records").map(json);
  const done = [...records.map((record) => [record, record.step_id]), [release, `release/${release.deployment}`]];
  const rules = chain.plans ?? {};
  const must = since > 1 && (rules.above_cost ?? null) === null ? rules.approvals ?? 0 : 0;
  let judged = 0;
  for (const [body, step] of done) {
    const people = new Set();
    for (const digest of body.plan_approvals ?? []) {
      const { given, stem } = approvalOf(digest, step);
      const bytes = readFileSync(`${stem}.plan`, "utf8");
      const { digest: own, ...content } = JSON.parse(bytes);
      need(given.subject === "plan" && own === given.digest && sha256(JSON.stringify(sorted(content))) === bare(own), `${stem}.plan is not the plan that ${given.person} approved`);
      const action = content.plan.actions.find((each) => each.id === step && !["nothing", "reuse", "blocked"].includes(each.kind));
      need(content.plan.commit === body.commit && given.commit === body.commit && action && [null, body.key].includes(action.key), `${stem}.plan does not hold ${step} as it was done`);
      if ((chain.approvers ?? []).includes(given.person) && !holders.includes(given.person)) people.add(given.person);
    }
    if (body === release || people.size) need(people.size >= must, `the plan of ${step} needs ${must} approvals and has ${people.size}`);
    judged += people.size ? 1 : 0;
  }
  if (judged) ok(`${judged} steps and moves were made under plans that people approved (who wrote them: forge verify)`);
}

function judgeApprovals(charter, predicate, weights, decision, ok) {
  const chain = charter.supply_chain;
  const needed = chain.release?.approvals?.[predicate.environment] ?? 0;
  if (!needed) return;
  const { duties, holders } = keptApart(chain);
  const authors = readFileSync("work/authors", "utf8").split("\n").filter(Boolean).map((row) => row.split(" "));
  if (duties.has("author")) {
    need(authors.some(([commit]) => commit === predicate.commit), `commits/ lacks the released commit ${predicate.commit}`);
    for (const [commit, state] of authors) need(state === "G", `commit ${commit} is signed by nobody that the supply chain lists`);
  }
  const wrote = duties.has("author") ? authors.map((row) => row[2]) : [];
  const counted = new Set();
  for (const digest of predicate.approvals ?? []) {
    const { given } = approvalOf(digest, "the release");
    if (given.subject !== `release/${predicate.environment}` || bare(given.digest) !== weights || bare(given.verdict) !== decision) continue;
    if (chain.release.approvals_cover === "release" && given.release !== predicate.key) continue;
    if (!(chain.approvers ?? []).includes(given.person) || wrote.includes(given.person) || holders.includes(given.person)) continue;
    counted.add(given.person);
  }
  need(counted.size >= needed, `release/${predicate.environment} needs ${needed} approvals and has ${counted.size}`);
  ok(`approved by ${[...counted].join(", ")}, ${counted.size} of ${needed} needed; written by ${[...new Set(wrote)].join(", ") || "whoever"}`);
}

const [verb, argument] = process.argv.slice(2);
try {
  if (verb === "prepare") prepare(argument);
  else if (verb === "verdict") verdict();
  else if (verb === "show") console.log(JSON.stringify(payloadOf(envelopeOf(argument)), null, 1));
  else refuse("usage: node check.mjs prepare sha256:DIGEST | verdict | show FILE");
} catch (error) {
  console.log(`REFUSED ${error instanceof Refused ? error.message : error.stack}`);
  if (verb === "verdict") console.log("VERDICT the chain DOES NOT HOLD");
  process.exitCode = 1;
}
