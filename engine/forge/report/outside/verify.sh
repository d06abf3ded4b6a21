#!/bin/sh
# The commands of README.md in their order, and the verdict. Exit status 0: the chain holds; 1: it does not.
#   sh verify.sh sha256:DIGEST                 in the unpacked folder
#   sh verify.sh sha256:DIGEST BUNDLE.tar.gz   unpacks it into ./bundle first, unless something in it is odd
# DIGEST is the trust root's, which you were given by somebody you trust. Where there are time stamps, TSA_PEM in the environment
# names a file with the certificates of the time-stamping authority that you trust.
set -u

refuse() {
  echo "VERDICT the chain DOES NOT HOLD: refused by: $1"
  exit 1
}

case "${1:-}" in
  sha256:*) TRUST_ROOT=$1 ;;
  *) echo "usage: sh verify.sh sha256:DIGEST [BUNDLE.tar.gz]"; exit 2 ;;
esac

if [ "$#" -gt 1 ]; then
  test ! -e bundle || refuse "there is something named bundle here already"
  tar -tvzf "$2" | awk '$1 !~ /^-/ || $0 ~ / -> | link to / { print "refused: " $0; bad = 1 } END { exit bad }' || refuse "links in the archive"
  tar -tzf "$2" | awk '$0 !~ /^bundle\// || $0 ~ /(^|\/)\.\.(\/|$)/ { print "refused: " $0; bad = 1 } END { exit bad }' || refuse "paths in the archive"
  tar -xzf "$2" --no-same-owner || refuse "tar"
  if [ -d node_modules ]; then cp -R node_modules bundle/; fi
  cd bundle || exit 1
fi
if [ ! -d node_modules ]; then
  npm ci --ignore-scripts || refuse "npm ci"
fi

echo "== prepare"
node check.mjs prepare "$TRUST_ROOT" || refuse "check.mjs prepare"

echo "== openssl"
(
while read -r pae signature key file; do openssl pkeyutl -verify -rawin -pubin -inkey "$key" -sigfile "$signature" -in "$pae" > /dev/null || { echo "REFUSED $file"; exit 1; }; done < work/openssl.list
) || refuse "openssl"

echo "== @sigstore/verify"
xargs node verify.mjs < work/sigstore.list || refuse "@sigstore/verify"

echo "== openssl ts"
(
while read -r signature token file; do openssl ts -verify -data "$signature" -in "$token" -CAfile "$TSA_PEM" > /dev/null 2>&1 || { echo "REFUSED the time stamp of $file"; exit 1; }; done < work/timestamps.list
) || refuse "openssl ts"

echo "== in-toto-verify"
(
if [ -f work/keys/root.pem ]; then (cd work/empty && in-toto-verify -l ../../in-toto/root.layout --verification-keys ../keys/root.pem --link-dir ../../in-toto/links); fi
) || refuse "in-toto-verify"

echo "== ssh-keygen"
(
while read -r person file allowed; do ssh-keygen -Y verify -f "$allowed" -I "$person" -n forge-approval -s "$file.sig" < "$file" || exit 1; done < work/approvals.list
) || refuse "ssh-keygen"

echo "== git"
(
set -e
git init --quiet --bare work/git
for file in commits/*.commit; do test "commits/$(git --git-dir=work/git hash-object -w -t commit "$file").commit" = "$file" || { echo "REFUSED $file: not the commit that its name says"; exit 1; }; done
git --git-dir=work/git -c gpg.ssh.allowedSignersFile="$PWD/work/authors.allowed" log --no-walk --stdin --format='%H %G? %GS' < work/commits.list > work/authors
) || refuse "git"

echo "== the statements"
node check.mjs verdict
