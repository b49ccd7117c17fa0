"""Compare `tinynn.Namespace` over a library with the library alone, by the public suite.

    python -m tests.conformance SUITE LIBRARY [arguments for pytest, such as --max-examples 100]

SUITE is a checkout, with its submodule, of https://github.com/data-apis/array-api-tests. Fails if
a test fails for the Namespace and not for the library alone, unless exceptions.toml says why. A
library's own failures are its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REVISION = "2025.12"
# What the suite needs to know of a library.
SETTINGS = {
    "jax": {"JAX_ENABLE_X64": "1"},
    "torch": {"ARRAY_API_TESTS_SKIP_DTYPES": "uint16,uint32,uint64"},
}

Outcomes = dict[str, str]


def run_suite(suite: Path, library: str, over: bool, *arguments: str) -> Outcomes:
    """Run the suite on the library, or on the Namespace over it: test -> outcome."""
    namespace = f'backends.get("{library}").xp'
    if over:
        namespace = f"tinynn.Namespace({namespace})"
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "outcomes.json")
        settings = {
            # Both import the same modules: Hypothesis draws from the constants it finds in them.
            "ARRAY_API_TESTS_MODULE": f"exec('import backends, tinynn; xp = {namespace}')",
            "ARRAY_API_TESTS_VERSION": REVISION,
            "PYTHONPATH": str(ROOT),
            "OUTCOMES": str(written),
            **SETTINGS.get(library, {}),
        }
        options = "-q --tb=short --disable-deadline --derandomize -p tests.conformance.outcomes"
        subprocess.run(
            [sys.executable, "-m", "pytest", *options.split(), *arguments],
            cwd=suite,
            env=os.environ | settings,
            check=False,
        )
        outcomes: Outcomes = json.loads(written.read_text()) if written.exists() else {}
    if not outcomes:
        raise SystemExit(f"the suite did not run on {library}; see above")
    return outcomes


def worse(over: Outcomes, alone: Outcomes) -> list[str]:
    """The tests that fare worse over the library than with it alone."""
    ranks = ("failed", "skipped", "passed")
    return sorted(
        test
        for test, outcome in alone.items()
        if ranks.index(over.get(test, "failed")) < ranks.index(outcome)
    )


def compare(suite: Path, library: str, *arguments: str) -> int:
    """Run the pair and say how they differ; how many differences have no reason."""
    alone = run_suite(suite, library, False, "array_api_tests", *arguments)
    over = run_suite(suite, library, True, "array_api_tests", *arguments)
    differences = worse(over, alone)
    reasons = tomllib.loads((HERE / "exceptions.toml").read_text()).get(library, {})
    passed = [list(outcomes.values()).count("passed") for outcomes in (alone, over)]
    print(f"{library}: of {len(alone)} tests {passed[0]} pass alone, {passed[1]} with Namespace")
    for test in differences:
        print(f"  worse with Namespace: {test}: {reasons.get(test, 'NO REASON GIVEN')}")
    for test in sorted(set(reasons) - set(differences)):
        print(f"  an exception no longer needed: {test}")
    return len(set(differences) - set(reasons))


if __name__ == "__main__":
    folder, name, *rest = sys.argv[1:]
    raise SystemExit(min(compare(Path(folder).resolve(), name, *rest), 1))
