#!/bin/sh
# The commands of README.md in their order, and the verdict. Exit status 0: the chain holds; 1: it does not.
#   sh verify.sh sha256:DIGEST                 in the unpacked folder; the npm packages are installed anew
#   sh verify.sh sha256:DIGEST BUNDLE.tar.gz   unpacks it into a new folder ./bundle first, unless something in it is odd; a
#                                              folder node_modules beside it, which you installed, is taken instead of npm ci
# DIGEST is the trust root's, which you were given by somebody you trust. Where there are time stamps, TSA_PEM in the environment
# names a file with the certificates of the time-stamping authority that you trust.
#
# Nothing of the archive is run but check.mjs and verify.mjs, and nothing in it can stand in for a program, a library or a setting:
# it may hold the files of the list below and no other, and what would make programs look elsewhere is taken out of the environment.
set -u
unset NODE_OPTIONS NODE_PATH GIT_DIR GIT_WORK_TREE GIT_CONFIG_PARAMETERS GIT_CONFIG_COUNT PYTHONPATH PYTHONHOME
export LC_ALL=C

N='[A-Za-z0-9_][A-Za-z0-9._@+-]*'
NAMES='^bundle/(README\.md|verify\.sh|(check|verify)\.mjs|package(-lock)?\.json|index\.json|weights\.sha256'
NAMES="$NAMES|(trust|records|attestations)/$N\.json|keys/$N\.pem|locks/$N\.txt|commits/$N\.commit|approvals/$N"
NAMES="$NAMES|in-toto/root\.layout|in-toto/links/$N\.link|artifacts/[0-9a-f]+(/[^/.][^/]*)+)"'$'

refuse() {
  echo "VERDICT the chain DOES NOT HOLD: refused by: $1"
  exit 1
}

case "${1:-}" in
  sha256:*) TRUST_ROOT=$1 ;;
  *) echo "usage: sh verify.sh sha256:DIGEST [BUNDLE.tar.gz]"; exit 2 ;;
esac

case ":$PATH:" in
  *::* | *:[!/]*) refuse "PATH has an entry that is relative: a file of the bundle could be run for a program" ;;
esac

case "${TSA_PEM:-/}" in
  /*) ;;
  *) TSA_PEM=$PWD/$TSA_PEM; export TSA_PEM ;;
esac

if [ "$#" -gt 1 ]; then
  { test ! -e bundle && test ! -L bundle; } || refuse "there is something named bundle here already"
  tar -tvzf "$2" | awk '$1 !~ /^-/ || $0 ~ / -> | link to / { print "refused: " $0; bad = 1 } END { exit bad }' || refuse "links in the archive"
  tar -tzf "$2" | awk '$0 !~ /^bundle\// || $0 ~ /(^|\/)\.\.(\/|$)/ { print "refused: " $0; bad = 1 } END { exit bad }' || refuse "paths in the archive"
  if tar -tzf "$2" | grep -Ev "$NAMES"; then refuse "files in the archive that no bundle has (above)"; fi
  if tar -tzf "$2" | sort | uniq -d | grep .; then refuse "files in the archive twice (above)"; fi
  tar -xzf "$2" --no-same-owner || refuse "tar"
  if [ -d node_modules ]; then cp -R node_modules bundle/ || refuse "node_modules"; fi
  cd bundle || exit 1
else
  rm -rf node_modules work # where they come from cannot be told
  if find . ! -type d | sed 's,^\.,bundle,' | grep -Ev "$NAMES"; then refuse "files here that no bundle has (above)"; fi
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
xargs -n 200 node verify.mjs < work/sigstore.list || refuse "@sigstore/verify"

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
