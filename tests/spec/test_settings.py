"""forge.toml: every fault with its line and what was probably meant."""

import pytest

from forge.errors import UsageError
from forge.spec.settings import read_settings


def fault(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        read_settings(text.encode(), "0.1.0")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# x\n[executor]\n\nthread = 2\n", "forge.toml:4: unknown key `executor.thread`; did you mean `threads`?"),
        ("[executer]\nthreads = 2\n", "forge.toml:1: unknown key `executer`; did you mean `executor`?"),
        ('[executor]\nthreads = "2"\n', "forge.toml:2: `executor.threads`: Input should be a valid integer, found '2'"),
        (
            "\n[accelerators.cpu]\nprice_per_hour = 0.1\n",
            "forge.toml:2: missing key `accelerators.cpu.flops_per_second`",
        ),
        (
            "[accelerators.cpu]\nflops_per_second = 1.0\nprice_per_hour = 1.0\nprice = 2\n",
            (
                "forge.toml:4: unknown key `accelerators.cpu.price`; known here: flops_per_second, peak_flops_per_second, "
                "price_per_hour"
            ),
        ),
        ('[specs]\ninclude = [\n  "a",\n  3,\n]\n', "forge.toml:2: `specs.include.1`: Input should be a valid string, found 3"),
        ("a = [\n", "forge.toml:1: not valid TOML: Invalid value (at end of document)"),
        ("[a]\n[a]\n", "forge.toml:2:3: not valid TOML: Cannot declare ('a',) twice"),
        ('currency = "USD"\nrequired_version = ">=9"\n', "forge.toml:2: required_version is '>=9', this is Forge 0.1.0"),
        ('\nrequired_version = "x"\n', "forge.toml:2: required_version: Invalid specifier: 'x'"),
        ('"\\u001b[31mred" = 1\n', "forge.toml:1: unknown key `\\x1b[31mred`"),
    ],
)
def test_a_fault_has_its_line_and_a_suggestion(text: str, message: str) -> None:
    assert fault(text).startswith(message)


def test_all_faults_are_reported_at_once() -> None:
    assert [line.split(": ")[0] for line in fault("a = 1\n[store]\nurl = 3\n").splitlines()] == ["forge.toml:3", "forge.toml:1"]
