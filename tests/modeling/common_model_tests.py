"""The behaviours that every model of the family shares, in the spirit of transformers' `ModelTesterMixin`.

A test class inherits `CommonModelTests` and states its tiny config and inputs (`common_contract.ModelUnderTest`).
Which behaviour is checked where, and which do not apply, is listed in `docs/model_tests.md`.
"""

import pytest


# The mixins' assertions report their values only when pytest rewrites these modules, before anything imports them.
for concern in (
    "contract",
    "config_tests",
    "loading_tests",
    "initialization_tests",
    "forward_tests",
    "training_tests",
):
    pytest.register_assert_rewrite(f"common_{concern}")

from common_config_tests import ConfigTests  # noqa: E402
from common_forward_tests import ForwardTests  # noqa: E402
from common_initialization_tests import InitializationTests  # noqa: E402
from common_loading_tests import LoadingTests  # noqa: E402
from common_training_tests import TrainingTests  # noqa: E402


class CommonModelTests(ConfigTests, LoadingTests, InitializationTests, ForwardTests, TrainingTests):
    """All common tests. `ModelUnderTest` says what a subclass fills in."""
