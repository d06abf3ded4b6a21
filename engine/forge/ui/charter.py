"""A supply chain for people: who may do what, and what a release needs, before the root signs it."""

from forge.contract.charter import Charter


def to_text(charter: Charter) -> str:
    """A few lines: roles with their steps and keys, approvers, what a release needs."""
    chain = charter.supply_chain
    lines = [f"Supply chain {charter.digest}, expires {chain.expires}"]
    for role, rules in chain.roles.items():
        names = ", ".join(f"{key.name}{f' (revoked {key.revoked})' if key.revoked else ''}" for key in rules.keys)
        steps = ", ".join(rules.steps) or "no step"
        if rules.threshold > 1:
            steps += f", each by {rules.threshold}"
        lines.append(f"  {role:<14}{steps}; keys: {names or 'those of the development root'}")
    lines.append(f"  approvers     {', '.join(chain.approvers) or 'nobody'}")
    lines += [f"  kept apart    {', '.join(group)}" for group in chain.separation_of_duties]
    approvals = ", ".join(f"{count} for {name}" for name, count in sorted(chain.release.approvals.items()) if count)
    lines.append(f"  approvals     {approvals or 'none for a release'}; {chain.plans.approvals or 'none'} for a plan")
    lines.append(f"  evaluations   {', '.join(item.suite for item in chain.release.evaluations) or 'those of each deployment'}")
    lines.append(f"  licences      {', '.join(chain.release.licenses) if chain.release.licenses is not None else 'any'}")
    registered = "stand before the evaluation runs" if chain.release.preregistered else "may be set afterwards"
    lines.append(f"  thresholds    {registered}")
    return "\n".join(lines) + "\n"
