"""How often what a release rests on was carried out, as a plan counts it: values that somebody has verified already."""

from dataclasses import dataclass

from forge.plan.desired import Desired


@dataclass(frozen=True)
class Count:
    """How many functionaries carried something out, and how many should have."""

    about: str
    """A step's id; or ``the link of all KIND steps``, which only who has carried out each of them may sign."""
    needed: int
    counted: tuple[str, ...]
    """What the key of each functionary is called."""
    refused: tuple[str, ...] = ()
    """Why others do not count."""
    remedy: str = ""

    @property
    def suffices(self) -> bool:
        """Whether there are as many as needed."""
        return len(self.counted) >= self.needed

    def __str__(self) -> str:
        names = f" ({', '.join(self.counted)})" if self.counted else ""
        text = f"{self.about} needs {self.needed} functionaries, has {len(self.counted)}{names}"
        return "; ".join([text, *self.refused]) + (f": {self.remedy}" if self.remedy and not self.suffices else "")


def asks_for_reproductions(desired: Desired) -> bool:
    """Whether a role of the commit's supply chain has a threshold."""
    roles = desired.charter["supply_chain"]["roles"] if desired.charter is not None else {}
    return any(rules.get("threshold", 1) > 1 for rules in roles.values())
