"""The regions whose national telephone numbers can be looked for: those that libphonenumber has a numbering plan of.

The list stands here because specs are read where the library is not installed; a test compares it with the library.
"""

import difflib
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

_LINES = (
    "AC AD AE AF AG AI AL AM AO AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BW BY BZ CA CC CD",
    "CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE",
    "GF GG GH GI GL GM GN GP GQ GR GT GU GW GY HK HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN",
    "KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ",
    "NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH",
    "SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TA TC TD TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG US UY UZ VA VC VE VG",
    "VI VN VU WF WS XK YE YT ZA ZM ZW",
)
REGIONS = frozenset(region for line in _LINES for region in line.split())
"""ISO 3166-1 alpha-2, and the three that libphonenumber has beside them: AC, TA and XK."""
_OFTEN_MEANT = {"UK": "GB", "EN": "GB", "EL": "GR"}


def _checked(value: list[str]) -> list[str]:
    for region in value:
        if region not in REGIONS:
            raise ValueError(f"there is no numbering plan of {region!r}; {_remedy(region)}")
    if len(set(value)) < len(value):
        raise ValueError("a region stands twice")
    return sorted(value)


def _remedy(region: str) -> str:
    name = region.strip().upper()
    likely = _OFTEN_MEANT.get(name, name)
    if likely in REGIONS:
        return f"did you mean `{likely}`?"
    near = difflib.get_close_matches(name, sorted(REGIONS), n=3, cutoff=0.6)
    return f"near it: {', '.join(near)}" if near else "expected a country's two letters (ISO 3166), such as DE or US"


PhoneRegions = Annotated[
    list[str],
    Field(max_length=len(REGIONS)),
    AfterValidator(_checked),
    WithJsonSchema({"type": "array", "items": {"enum": sorted(REGIONS)}, "uniqueItems": True}),
]
"""Regions by their two letters, in alphabetical order however they are written: what is found does not depend on it."""
