"""Keep one comment of a pull request, or one issue, up to date. The standard library alone: it runs on any runner.

    post.py comment FILE    the comment of pull request PULL_REQUEST; where the token may only read, the summary of the job
    post.py issue FILE      the issue about drift: opened, or brought up to date
    post.py close           the issue about drift, where there is one

What is to be replaced is known by the mark on its first line and by its author, the bot: a comment that anybody else wrote,
with the mark or without, is never touched. A file that is empty or absent says that no plan could be made.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

MARK = "<!-- forge plan -->"
BOT = "github-actions[bot]"
TITLE = "Forge: what is in place differs from the main branch"
PAGE = 100


def api(method, path, content=None):
    """One call of GitHub's API; returns the answer."""
    request = urllib.request.Request(
        f"{os.environ['GITHUB_API_URL']}/repos/{os.environ['GITHUB_REPOSITORY']}/{path}",
        method=method,
        data=None if content is None else json.dumps(content).encode(),
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}",
            "Content-Type": "application/json",
            "User-Agent": "forge",
            "X-GitHub-Api-Version": "2022-11-28",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def ours(path):
    """The first of the things listed at a path that the bot wrote and that begins with the mark; None where there is none."""
    page = 1
    while True:
        found = api("GET", f"{path}{'&' if '?' in path else '?'}per_page={PAGE}&page={page}")
        for item in found:
            is_bots = (item.get("user") or {}).get("login") == BOT and "pull_request" not in item
            if is_bots and (item.get("body") or "").startswith(MARK):
                return item
        if len(found) < PAGE:
            return None
        page += 1


def text_of(file):
    """What to post."""
    run = f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}/actions/runs/{os.environ['GITHUB_RUN_ID']}"
    text = Path(file).read_text(encoding="utf-8") if Path(file).exists() else ""
    if not text.startswith(MARK):
        text = f"{MARK}\n### Forge plan: none\n\nNo plan could be made of this commit; the log says why.\n"
    head = os.environ.get("HEAD_COMMIT")
    return f"{text}\n{f'For {head}, as merged. ' if head else ''}[Log]({run})\n"


def comment(text):
    """Replace the comment, or write the first."""
    number = int(os.environ["PULL_REQUEST"])
    try:
        found = ours(f"issues/{number}/comments")
        if found is None:
            api("POST", f"issues/{number}/comments", {"body": text})
        else:
            api("PATCH", f"issues/comments/{int(found['id'])}", {"body": text})
    except urllib.error.HTTPError as error:
        if error.code != 403:
            raise
        with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as summary:
            summary.write(text)
        print("::notice::This token may not comment (a pull request from a fork): the plan is in the summary of this job.")


def issue(text):
    """Bring the open issue up to date, or open one."""
    found = ours("issues?state=open")
    if found is None:
        api("POST", "issues", {"title": TITLE, "body": text})
    else:
        api("PATCH", f"issues/{int(found['number'])}", {"body": text})


def close():
    """Close the open issue."""
    found = ours("issues?state=open")
    if found is not None:
        api("PATCH", f"issues/{int(found['number'])}", {"state": "closed", "state_reason": "completed"})


def main(arguments):
    """Do what the command line says."""
    match arguments:
        case ["comment", file]:
            comment(text_of(file))
        case ["issue", file]:
            issue(text_of(file))
        case ["close"]:
            close()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except urllib.error.HTTPError as error:
        said = error.read(1000).decode(errors="replace")
        sys.exit(f"post.py: {error.url.split('?')[0]}: {error.code} {error.reason}: {said}")
    except urllib.error.URLError as error:
        sys.exit(f"post.py: {os.environ['GITHUB_API_URL']}: {error.reason}")
