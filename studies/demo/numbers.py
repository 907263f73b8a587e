"""The numbers of the demo: what each name in summary.json means, as the report prints it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from studies.report import Section
from studies.report.page import number

# Name or pattern to meaning, in the order of the page.
MEANINGS = {
    r"encode\.(?P<model>\w+)\.shuffled": "{model}: mean noise-normalised r over all units, stimuli shuffled; mean of "
    "the shuffles",
    r"encode\.(?P<model>\w+)\.shuffled_se": "{model}: standard error of that mean",
    r"encode\.(?P<model>\w+)\.(?P<roi>V1|V2|V3|V4|category|MTL)": "{model}: mean noise-normalised r in {roi}, held-out "
    "scenes (1 = noise ceiling)",
    r"encode\.(?P<model>\w+)\.attention_on_object": "{model}: share of held-out scenes with a patch's object in which "
    "the attention of the patch peaks on it",
    r"encode\.(?P<model>\w+)\.attention_on_object_chance": "{model}: the same for a peak put anywhere",
    r"encode\.(?P<model>\w+)\.entropy_(?P<case>with|without)_object": "{model}: entropy of a patch's attention in "
    "scenes {case} its object (1 = spread evenly), of the head chosen on training scenes",
    r"encode\.noise_ceiling_error": "mean absolute error of the estimated against the planted noise ceiling, fraction "
    "of variance",
    r"decode\.retrieval_top1": "share of held-out scenes whose own picture comes first in the gallery",
    r"decode\.retrieval_chance": "the same by chance: 1 / pictures in the gallery",
    r"decode\.retrieval_shuffled": "the same with the answers shuffled over scenes; mean of the shuffles",
    r"decode\.identification_two_way": "share of pairs in which the prediction is closer to its own picture than to "
    "another (chance 0.5)",
    r"decode\.image\.two_way": "share of pairs in which a drawing is closer to its own scene than to another, by "
    "features of the miniature backbone (chance 0.5)",
    r"decode\.image\.two_way_(?P<what>z|c)": "the same of drawings from the decoded {what} alone",
    r"decode\.image\.two_way_shuffled": "the same with the scenes shuffled; mean of the shuffles",
    r"decode\.image\.(?P<what>category|colour)": "share of drawings in which an independent reader reads the right "
    "{what}",
    r"decode\.image\.position_r": "Pearson r of the place that the reader reads with the true one",
    r"score\.ceiling_fraction": "predictivity of the true model over the noise ceiling (1 = perfect)",
    r"seconds\.(?P<part>\w+)": "wall time of the part: {part}, seconds",
    r"peak_memory_gb": "most memory held at once, gigabytes (1e9 bytes)",
}


def meaning(name: str) -> str:
    """What a number means; `KeyError` for one that nobody has explained."""
    for pattern, text in MEANINGS.items():
        match = re.fullmatch(pattern, name)
        if match:
            return text.format(**{group: value.replace("_", " ") for group, value in match.groupdict().items()})
    raise KeyError(f"no meaning is written down for {name!r}")


def numbers_section(summary: Mapping[str, float], commands: Mapping[str, Sequence[str]]) -> Section:
    """Every number of the summary with its meaning, and the commands that give them again."""
    return Section(
        "numbers",
        "Numbers and commands",
        {
            "rows": [(name, number(value), meaning(name)) for name, value in summary.items()],
            "commands": commands,
        },
    )
