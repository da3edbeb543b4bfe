"""SadTalker's files are found, judged by what is in them and read by network; what is wrong with one is said by its name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from extensions.sadtalker.engines.neural import checkpoints, layout
from extensions.sadtalker.engines.neural.checkpoints import find
from tests import neural_files
from tests.neural_files import MAIN, MAPPINGS, OLDER
from webui.errors import ModelMissing, UnsupportedModel
from webui.settings import Settings

MANIFEST = Path(__file__).parents[2] / "shared" / "parity" / "manifest.json"
CROP, FULL = MAPPINGS["mapping"], MAPPINGS["mapping_full"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sizes of v0.0.2; nothing in it is changed."""
    folder = tmp_path_factory.mktemp("v002")
    neural_files.v002(folder, 512)
    return neural_files.v002(folder, 256, ("audio2exp", "mapping", "mapping_full"))


@pytest.fixture
def changed(whole: Path, tmp_path: Path) -> Path:
    """The files for 256, of which any may be replaced."""
    for name in (MAIN[256], CROP, FULL):
        os.link(whole / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def older(tmp_path: Path) -> Path:
    return neural_files.older(tmp_path)


def replaced(folder: Path, name: str) -> Path:
    """The place of a file that a test writes anew."""
    (folder / name).unlink()
    return folder / name


@pytest.mark.skipif(not MANIFEST.exists(), reason="upstream's list of tensors, ../shared/parity, is not at hand")
def test_the_list_of_tensors_is_upstreams():
    files = json.loads(MANIFEST.read_text())["files"]
    training = ("num_batches_tracked", "audio2pose.netD_motion", "audio2pose.netG.encoder")

    def held(name: str, prefix: str) -> dict[str, tuple[int, ...]]:
        entries = files[name]["tensors"].items()
        used = {key: tuple(one["shape"]) for key, one in entries if not any(part in key for part in training)}
        return {key[len(prefix) :]: shape for key, shape in used.items() if key.startswith(prefix)}

    for net in neural_files.IN_MAIN:
        assert held(MAIN[256], f"{net}.") == held(MAIN[512], f"{net}.") == layout.of(net), net
    for net, name in MAPPINGS.items():
        assert held(name, "") == layout.of(net)


class TestFinding:
    def test_a_folder_with_one_file_and_the_mapping_nets(self, whole: Path):
        found = find([whole], 256)
        assert (found.size, found.layout, found.folder) == (256, "v0.0.2", whole)
        assert {net: path.name for net, path in found.files.items()} == dict.fromkeys(neural_files.IN_MAIN, MAIN[256]) | MAPPINGS
        assert find([whole], 512).files["generator"].name == MAIN[512]
        assert 4 * 150e6 < found.bytes < sum(path.stat().st_size for path in found.paths)

    def test_the_older_separate_files(self, older: Path):
        found = find([older], 256)
        assert (found.size, found.layout) == (256, "older")
        assert found.files["generator"] == found.files["kp_extractor"] == older / "facevid2vid_00189-model.pth.tar"
        assert {path.name for path in found.paths} == {*OLDER, *MAPPINGS.values()}

    def test_one_file_is_preferred_to_the_older_ones(self, older: Path, whole: Path):
        os.link(whole / MAIN[256], older / MAIN[256])
        assert find([older], 256).layout == "v0.0.2"

    def test_the_other_size_when_that_is_all_there_is(self, changed: Path):
        assert find([changed], 512).size == 256

    def test_the_first_folder_of_the_size_that_was_asked_for(self, changed: Path, whole: Path, tmp_path: Path):
        assert find([tmp_path / "none", changed, whole], 256).folder == changed
        assert find([changed, whole], 512).folder == whole

    def test_a_folder_that_lacks_a_file_is_passed_over_for_a_whole_one(self, changed: Path, whole: Path):
        (changed / FULL).unlink()
        assert find([changed, whole], 256).folder == whole

    def test_models_sadtalker_comes_before_the_folder_that_the_settings_name(self, tmp_path: Path):
        settings = replace(Settings(), models_dir=tmp_path / "models", sadtalker_dir=None)
        assert checkpoints.folders(settings) == [tmp_path / "models" / "SadTalker"]
        named = replace(settings, sadtalker_dir=tmp_path / "checkpoints")
        assert checkpoints.folders(named) == [tmp_path / "models" / "SadTalker", tmp_path / "checkpoints"]

    def test_a_replaced_file_is_another_version(self, changed: Path):
        before = find([changed], 256).version
        assert find([changed], 256).version == before
        neural_files.pickled(replaced(changed, CROP), {"mapping": neural_files.state("mapping", False)})
        assert find([changed], 256).version != before


class TestTensors:
    @pytest.mark.parametrize("net", ["audio2exp", "mapping", "mapping_full"])
    def test_are_those_that_were_saved_by_their_own_names(self, whole: Path, net: str):
        found = find([whole], 256).tensors(net.removesuffix("_full"), full=net.endswith("_full"))
        expected = neural_files.tensors(net)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    @pytest.mark.parametrize("net", ["audio2pose", "kp_extractor"])
    def test_of_the_older_files(self, tmp_path: Path, net: str):
        found = find([neural_files.older(tmp_path, (net,))], 256).tensors(net)
        assert all(torch.equal(found[name], tensor) for name, tensor in neural_files.tensors(net).items())

    def test_of_a_file_as_torch_wrote_them_before_2020(self, changed: Path):
        torch.save({"mapping": neural_files.tensors("mapping")}, replaced(changed, CROP), _use_new_zipfile_serialization=False)
        found = find([changed], 256).tensors("mapping")
        assert all(torch.equal(found[name], tensor) for name, tensor in neural_files.tensors("mapping").items())

    def test_half_precision_is_read_as_float32(self, changed: Path):
        halves = {name: tensor.half() for name, tensor in neural_files.tensors("mapping").items()}
        neural_files.pickled(replaced(changed, CROP), {"mapping": halves})
        found = find([changed], 256).tensors("mapping")
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}

    def test_a_file_of_full_length_with_nothing_in_it_is_damaged(self, whole: Path):
        with pytest.raises(UnsupportedModel, match=rf"{MAIN[256]} is damaged: .* holds no usable numbers\. Download it again\."):
            find([whole], 256).tensors("audio2pose")

    def test_numbers_that_are_none_are_damaged(self, changed: Path):
        broken = neural_files.tensors("mapping")
        broken["fc_t.bias"][1] = float("nan")
        neural_files.pickled(replaced(changed, CROP), {"mapping": broken})
        with pytest.raises(UnsupportedModel, match=r"fc_t\.bias holds no usable numbers"):
            find([changed], 256).tensors("mapping")


class TestMissing:
    def test_nothing_is_there(self, tmp_path: Path):
        folder = tmp_path / "models" / "SadTalker"
        with pytest.raises(ModelMissing, match=r"They go into models/SadTalker \(SadTalker_V0\.0\.2_256\.safetensors"):
            find([folder], 256)

    @pytest.mark.parametrize("name", [CROP, FULL])
    def test_a_mapping_net_is_missing(self, changed: Path, name: str):
        (changed / name).unlink()
        with pytest.raises(ModelMissing, match=rf"^{name} is missing in {changed.name}"):
            find([changed], 256)

    def test_some_of_the_older_files_are_missing(self, older: Path):
        (older / "epoch_20.pth").unlink()
        (older / CROP).unlink()
        with pytest.raises(ModelMissing, match=rf"^epoch_20\.pth and {CROP} are missing"):
            find([older], 256)


class Program:
    """What a malicious pickle holds: unpickling it calls something."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("was-run",)


class TestCorruption:
    """Each is named, with what was expected."""

    def refused(self, folder: Path, name: str) -> str:
        with pytest.raises(UnsupportedModel) as caught:
            find([folder], 256)
        assert str(caught.value).startswith(name)
        return str(caught.value)

    def test_a_download_that_broke_off(self, changed: Path):
        path = neural_files.main(replaced(changed, MAIN[256]))
        os.truncate(path, path.stat().st_size // 2)
        said = self.refused(changed, MAIN[256])
        assert "breaks off" in said and "It should be SadTalker v0.0.2 as one file (for 256 x 256, at least 703 MB)" in said

    def test_a_header_that_broke_off(self, changed: Path, whole: Path):
        path = replaced(changed, MAIN[256])
        with open(whole / MAIN[256], "rb") as file:
            path.write_bytes(file.read(5000))
        assert "breaks off" in self.refused(changed, MAIN[256])

    def test_a_pickle_that_broke_off(self, changed: Path):
        path = neural_files.pickled(replaced(changed, CROP), {"mapping": neural_files.state("mapping", False)})
        path.write_bytes(path.read_bytes()[:-500])
        said = self.refused(changed, CROP)
        assert "damaged or breaks off" in said and "the mapping net for crop, extcrop and resize (at least 40 MB)" in said

    @pytest.mark.parametrize("name", [MAIN[256], CROP])
    def test_an_empty_file(self, changed: Path, name: str):
        replaced(changed, name).touch()
        assert "is empty. Download it again. It should be" in self.refused(changed, name)

    def test_a_web_page(self, changed: Path):
        replaced(changed, FULL).write_text("<!DOCTYPE html><html>Sign in</html>")
        said = self.refused(changed, FULL)
        assert "a web page" in said and "It should be the mapping net for full and extfull" in said

    def test_another_model(self, changed: Path):
        neural_files.safetensors(replaced(changed, MAIN[256]), {"model.diffusion_model.out.2.weight": (4, 320, 3, 3)})
        assert "should be SadTalker v0.0.2 as one file, but nothing of it is in there" in self.refused(changed, MAIN[256])

    def test_swapped_mapping_nets(self, changed: Path, whole: Path):
        shutil.copy(whole / FULL, replaced(changed, CROP))
        shutil.copy(whole / CROP, replaced(changed, FULL))
        assert self.refused(changed, CROP) == (
            f"{CROP} should be the mapping net for crop, extcrop and resize, but it is the mapping net for full and extfull. "
            "Files were swapped or renamed: download it again."
        )

    def test_upstreams_file_for_another_size(self, whole: Path):
        """Nothing but the digest tells them apart."""
        found = checkpoints.find([whole], 256)
        file = found.used(full=False)[0]
        checkpoints.check_names({file: "0" * 64})
        checkpoints.check_names({file: next(sha for sha, name in checkpoints.RELEASED.items() if name == file.name)})
        with pytest.raises(UnsupportedModel, match=r"256\.safetensors is in truth SadTalker_V0\.0\.2_512\.safetensors"):
            checkpoints.check_names({file: next(sha for sha, name in checkpoints.RELEASED.items() if "512" in name)})

    def test_swapped_older_files(self, older: Path):
        expression, pose = older / "auido2exp_00300-model.pth", older / "auido2pose_00140-model.pth"
        expression.rename(older / "aside")
        pose.rename(expression)
        (older / "aside").rename(pose)
        said = self.refused(older, expression.name)
        assert "should be the network for expressions, but it is the network for the head's movements" in said

    def test_a_mapping_net_of_another_version(self, changed: Path):
        state = neural_files.state("mapping", False) | {"first.0.weight": torch.zeros(1).expand(1024, 64, 7)}
        neural_files.pickled(replaced(changed, CROP), {"mapping": state})
        assert self.refused(changed, CROP) == (
            f"{CROP} is of another version than SadTalker v0.0.2: mapping.first.0.weight is 1024 x 64 x 7, but 1024 x 70 x 7 was "
            "expected. Download the files of one version together."
        )

    def test_a_file_put_together_from_two_versions(self, changed: Path):
        shapes = {f"{net}.{name}": shape for net in neural_files.IN_MAIN for name, shape in layout.of(net).items()}
        without = {name: shape for name, shape in shapes.items() if not name.startswith("face_3drecon")}
        neural_files.safetensors(replaced(changed, MAIN[256]), without)
        assert "is not whole: " in (said := self.refused(changed, MAIN[256])) and "such as face_3drecon.backbone" in said
        neural_files.safetensors(changed / MAIN[256], shapes | {"kp_extractor.kp.weight": (10, 32, 3, 3, 3)})
        said = self.refused(changed, MAIN[256])
        assert "kp_extractor.kp.weight is 10 x 32 x 3 x 3 x 3, but 15 x 32 x 3 x 3 x 3 was expected" in said

    def test_whole_numbers_in_place_of_weights(self, changed: Path):
        state = neural_files.state("mapping", False) | {"fc_t.bias": torch.zeros(3, dtype=torch.int64)}
        neural_files.pickled(replaced(changed, CROP), {"mapping": state})
        assert "mapping.fc_t.bias is I64, but F32 was expected" in self.refused(changed, CROP)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_pickle_with_a_program_is_not_run(self, changed: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool):
        monkeypatch.chdir(changed)
        content = {"mapping": neural_files.state("mapping", False), "optimizer": Program()}
        path = replaced(changed, CROP)
        if zipped:
            torch.save(content, path)
        else:
            path.write_bytes(pickle.dumps({"mapping": {}, "optimizer": Program()}))
        said = self.refused(changed, CROP)
        assert "holds more than numbers" in said or "damaged" in said
        assert "It should be the mapping net for crop" in said
        assert not (changed / "was-run").exists()

    def test_a_file_that_changes_while_it_is_used(self, changed: Path):
        found = find([changed], 256)
        neural_files.pickled(replaced(changed, CROP), {"mapping": {"first.0.weight": torch.zeros(3)}})
        with pytest.raises(UnsupportedModel, match=CROP):
            found.tensors("mapping")
