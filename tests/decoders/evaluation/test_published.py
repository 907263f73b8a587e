"""The table of published scores: complete, sourced, in range, and not filled in."""

from __future__ import annotations

from decoders.evaluation import PUBLISHED_NETWORKS, published_scores
from decoders.evaluation.published import COLUMNS


def test_every_row_has_a_source_and_a_note() -> None:
    table = published_scores()
    assert list(table.columns) == ["method", "source", *COLUMNS, "note"]
    assert table["source"].str.contains(r"arXiv \d{4}\.\d{5}").all()
    assert table["note"].str.contains("not measured here").all()
    assert not table.duplicated(["method", "source"]).any() and len(table) == 12


def test_columns_name_the_networks_that_are_published() -> None:
    assert set(PUBLISHED_NETWORKS) < set(COLUMNS)


def test_values_are_in_the_range_of_their_score() -> None:
    table = published_scores()
    low, per_cent = ["PixCorr", "SSIM", "EffNet-B", "SwAV"], ["AlexNet(2)", "AlexNet(5)", "Inception", "CLIP"]
    assert 0 < table[low].min().min() <= table[low].max().max() < 1
    assert 50 < table[per_cent].min().min() <= table[per_cent].max().max() <= 100
    assert table[list(COLUMNS)].isna().any().any(), "cells that are not given stay empty"
    assert table[list(COLUMNS)].notna().any(axis=1).all()
