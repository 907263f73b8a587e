"""The registry, streaming to disk, and its errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recordings import Cancelled, InputError, Recording
from recordings.errors import FormatError, MismatchedIdsError, UnknownNameError
from recordings.readers import READERS, import_recording


@pytest.fixture
def array(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "responses.npy"
    np.save(path, rng.normal(size=(1100, 3)).astype(np.float32))
    return path


def test_each_reader_describes_its_layout_and_whether_it_was_tried():
    for reader in READERS.values():
        module = __import__(reader.read.__module__, fromlist=["__doc__"])
        assert "Layout" in module.__doc__, reader.name
        said = (
            "never tried on real files" not in module.__doc__.lower()
            or "tried on real files:" in module.__doc__.lower()
        )
        assert said is reader.tried_on_real_files, reader.name
        for name, field in reader.options.model_fields.items():
            assert field.description, f"{reader.name}.{name} has no description"


def test_import_streams_in_blocks_reports_and_records_provenance(array, tmp_path):
    events = []
    imported = import_recording("npy", array, tmp_path / "r.zarr", on_event=events.append)
    assert [e.done for e in events] == [0, 512, 1024, 1100]
    np.testing.assert_array_equal(imported.recording.values, np.load(array))
    again = Recording.load(tmp_path / "r.zarr")
    assert again.attrs["format"] == "npy" and again.attrs["source"] == str(array)
    assert again.attrs["options"]["dims"] is None
    assert imported.stimuli is None


def test_a_stopped_import_leaves_nothing(array, tmp_path):
    with pytest.raises(Cancelled):
        import_recording("npy", array, tmp_path / "r.zarr", stop=lambda: True)
    assert [p.name for p in tmp_path.iterdir()] == ["responses.npy"]


def test_unknown_names_say_what_there_is(array, tmp_path):
    with pytest.raises(UnknownNameError, match=r"no format 'matlab'.*nifti"):
        import_recording("matlab", array, tmp_path / "r.zarr")
    with pytest.raises(UnknownNameError, match=r"no option 'axes'.*dims"):
        import_recording("npy", array, tmp_path / "r.zarr", axes="stimulus,neuroid")
    with pytest.raises(InputError, match="option 'dims' of format 'npy'"):
        import_recording("npy", array, tmp_path / "r.zarr", dims="rows,columns")


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_missing_source_is_a_format_error_that_names_it(name, tmp_path):
    needed = {field: "x" for field, info in READERS[name].options.model_fields.items() if info.is_required()}
    with pytest.raises(FormatError, match="nowhere"):
        import_recording(name, tmp_path / "nowhere", tmp_path / "out", **needed)
    assert not list(tmp_path.iterdir())


def test_existing_output_is_kept_unless_told(array, tmp_path):
    import_recording("npy", array, tmp_path / "r.zarr")
    with pytest.raises(InputError, match="exists already"):
        import_recording("npy", array, tmp_path / "r.zarr")
    import_recording("npy", array, tmp_path / "r.zarr", overwrite=True)


def test_shown_stimuli_must_be_among_the_stimuli_of_the_source(tmp_path, rng):
    import pandas as pd

    from recordings import Stimuli
    from recordings.readers import READERS as readers
    from recordings.readers import Contents, Options, Reader

    def read(source, options):
        shown = pd.DataFrame({"stimulus_id": ["a", "b"]})
        stimuli = Stimuli.from_captions({"a": "one"})
        return Contents(shown, pd.DataFrame({"neuroid_id": ["n"]}), iter([np.zeros((2, 1))]), stimuli=stimuli)

    readers["half"] = Reader("half", read, Options, "half of the stimuli")
    try:
        with pytest.raises(MismatchedIdsError, match="'b' was shown"):
            import_recording("half", tmp_path, tmp_path / "r.zarr")
    finally:
        del readers["half"]
