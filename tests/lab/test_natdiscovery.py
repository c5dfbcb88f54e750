"""An independent judge in the lab: mapping and filtering are what each policy states.

coturn comes from Debian, so the soak alone runs it.
"""

import os
from pathlib import Path

import pytest
import yaml
from running import Lab, wait

from mesh.lab.conformance.judge import Judge

SOAK = bool(os.environ.get("MESHGATE_SOAK"))
DEPENDENT = ("Address and Port Dependent", "Address and Port Dependent")


def judge_of(lab: Lab) -> Judge:
    name = lab.environment["MESHGATE_LAB"]
    return Judge(f"{name}-east_shop_client-1", f"{name}-legacy")


if SOAK:

    @pytest.mark.parametrize(
        ("spec", "wanted"),
        [
            ({}, DEPENDENT),
            ({"mapping": "endpoint-independent"}, ("Endpoint Independent", "Address Dependent")),
            (
                {"mapping": "endpoint-independent", "filtering": "endpoint-independent"},
                ("Endpoint Independent", "Endpoint Independent"),
            ),
        ],
    )
    def test_a_policy_is_what_the_judge_sees(
        lab: Lab, family: int, spec: dict[str, str], wanted: tuple[str, str]
    ) -> None:
        path = Path(lab.shown["manifests"]["east"]) / "egress.yaml"
        before = path.read_text()
        documents = list(yaml.safe_load_all(before))
        for one in documents:
            if one["kind"] == "EgressPolicy":
                one["spec"] |= spec
        judge = judge_of(lab)
        try:
            path.write_text(yaml.safe_dump_all(documents))
            with judge.server(family):
                wait(lambda: judge.behaviour(family) == wanted, 60, f"{wanted}")
        finally:
            path.write_text(before)
