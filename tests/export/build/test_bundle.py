import pytest
from jointrt.errors import SettingsError
from jointrt.export.build.bundle import export_bundle


@pytest.mark.parametrize("change", [{"memory": 0}, {"memory": 300}, {"interval": 0}, {"max_objects": 256}])
def test_defaults_out_of_range_are_refused_before_anything_is_read(tmp_path, change):
    name, value = next(iter(change.items()))
    with pytest.raises(SettingsError, match=f"{name} is {value}: expected a number"):
        export_bundle(tmp_path / "none.safetensors", tmp_path / "out", **change)
    assert not list(tmp_path.iterdir())


def test_graphs_say_nothing_of_the_machine_that_made_them(tiny_bundle):
    for record in tiny_bundle.manifest.graphs.values():
        assert b"graphs.py" not in tiny_bundle.path(record.file).read_bytes()
