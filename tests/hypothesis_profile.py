"""How much is tried: little by `make test`, the same each time; much by `make fuzz`, at random."""

from typing import Any

from hypothesis import HealthCheck, Phase, settings

FUZZ = "fuzz"
settings.register_profile(FUZZ, print_blob=True, deadline=None)
# A test on a busy machine may take long; what must be quick is measured in bench/.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def fuzzing() -> bool:
    """Whether pytest was started with `--hypothesis-profile=fuzz`."""
    return settings.get_current_profile_name() == FUZZ


def tries(few: int, many: int, **more: Any) -> settings:
    """Settings of a test: `few` examples, `many` of them by `make fuzz`.

    Found cases are kept as explicit examples, so that no database of them is needed.
    """
    return settings(
        max_examples=many if fuzzing() else few,
        derandomize=not fuzzing(),
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        **more,
    )
