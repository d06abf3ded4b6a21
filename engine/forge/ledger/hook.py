"""The ``update`` hook for a Git server that one runs oneself: what readers would refuse does not get in.

Hosts do not protect ``refs/forge/*``: a forced overwrite or a deletion passes receive.denyNonFastForwards and denyDeletes in
common set-ups, and a commit that deletes every record is a legal fast-forward. The hook looks at every commit of a push. It is
POSIX sh and needs nothing but git. Forge does not rest on it: every reader checks for itself.
"""

from pathlib import Path

from forge.errors import RefusedError

_HOOK = r"""#!/bin/sh
# Forge: guard the ledger and the leases. Install as hooks/update of the bare repository (mode 0755).
# git runs it once for each ref of a push, before anything moves; a refusal refuses the ref (an atomic push: all of them).
ref=$1 old=$2 new=$3
zero=0000000000000000000000000000000000000000

refuse() {
	echo "forge: refused: $ref: $1" >&2
	exit 1
}

# The number at the end of canonical JSON: "token" is the last of a lease's fields, and the only one that is a number there.
token_of() {
	git cat-file blob "$1" 2>/dev/null | tr -d '\n' | sed -n 's/^{.*"token":\([0-9]\{1,15\}\)}$/\1/p'
}

token_required() {
	[ "$(git cat-file -t "$new" 2>/dev/null)" = blob ] || refuse "it must point to a blob"
	token=$(token_of "$new")
	[ -n "$token" ] || refuse "it holds no token"
}

case $ref in
refs/forge/ledger/*)
	refuse "nothing may lie below a ledger"
	;;
refs/forge/ledger*)
	[ "$new" != "$zero" ] || refuse "the ledger is never deleted"
	[ "$(git cat-file -t "$new" 2>/dev/null)" = commit ] || refuse "it must point to a commit"
	range=$new
	if [ "$old" != "$zero" ]; then
		git merge-base --is-ancestor "$old" "$new" || refuse "the ledger only goes forward: $new does not descend from $old"
		range=$old..$new
	fi
	commits=$(git rev-list "$range") || refuse "its commits cannot be read"
	[ -z "$(git rev-list --min-parents=2 "$range")" ] || refuse "the ledger has no merges"
	lost=$(echo "$commits" | git diff-tree --stdin -r --no-commit-id --no-renames --name-status --diff-filter=a) ||
		refuse "its commits cannot be compared"
	[ -z "$lost" ] || refuse "a commit removes or changes paths: $(echo "$lost" | head -n 3 | tr '\n\t' ', ')"
	;;
refs/forge/lease-token)
	[ "$new" != "$zero" ] || refuse "the counter of tokens is never deleted"
	token_required
	if [ "$old" != "$zero" ]; then
		last=$(token_of "$old")
		[ -z "$last" ] || [ "$token" -gt "$last" ] || refuse "the counter only grows: $token does not follow $last"
	fi
	;;
refs/forge/leases/*)
	[ "$new" != "$zero" ] || exit 0
	token_required
	before=
	[ "$old" = "$zero" ] || before=$(token_of "$old")
	[ "$token" != "$before" ] || exit 0 # a heartbeat
	last=
	if counter=$(git rev-parse --verify --quiet refs/forge/lease-token); then
		last=$(token_of "$counter")
	fi
	[ -z "$last" ] || [ "$token" -gt "$last" ] || refuse "token $token is stale: the counter stands at $last"
	[ -z "$before" ] || [ "$token" -gt "$before" ] || refuse "token $token is lower than that of the lease, $before"
	;;
refs/forge/status/*)
	[ "$new" = "$zero" ] || [ "$(git cat-file -t "$new" 2>/dev/null)" = blob ] || refuse "it must point to a blob"
	;;
esac
exit 0
"""


def server_hook() -> str:
    """The text of the hook, for ``hooks/update`` in a bare repository (executable)."""
    return _HOOK


def install_server_hook(bare: Path) -> Path:
    """Write the hook into a bare repository; raises RefusedError for a folder that is none, or that has another update hook."""
    if not (bare / "objects").is_dir() or not (bare / "HEAD").is_file():
        raise RefusedError(f"{bare}: not a bare Git repository (make one with `git init --bare`)")
    path = bare / "hooks" / "update"
    if path.exists() and path.read_text("utf-8", "replace") != server_hook():
        raise RefusedError(f"{path}: another update hook is there; call `forge`'s from it, or move it away")
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name("update.forge-tmp")
    temporary.write_text(server_hook(), "utf-8")
    temporary.chmod(0o755)
    temporary.replace(path)
    return path
