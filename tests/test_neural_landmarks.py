"""face-alignment's network: read from its own file as numbers only, its points put where it saw them."""

from __future__ import annotations

import numpy as np
import pytest

from webui.errors import UnsupportedModel
from webui.faces import Face
from webui.settings import Settings

torch = pytest.importorskip("torch")
pytest.importorskip("face_alignment")

from extensions.sadtalker.engines.neural import landmarks  # noqa: E402

FACE = Face((100.0, 80.0, 300.0, 280.0), np.zeros((68, 2)), 1.0)


@pytest.fixture(autouse=True)
def nothing_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


class Warm(torch.nn.Module):
    """Sees landmark n in cell (x, y) = (n % 60 + 2, n // 2 + 2), a little to the right and above."""

    def forward(self, pixels):
        heat = torch.zeros(1, 68, 64, 64)
        for n in range(68):
            heat[0, n, n // 2 + 2, n % 60 + 2] = 1.0
            heat[0, n, n // 2 + 2, n % 60 + 3] = heat[0, n, n // 2 + 1, n % 60 + 2] = 0.5
        self.seen = pixels
        return [heat]


def test_points_are_put_where_the_network_saw_them():
    net, rgb = Warm(), np.zeros((400, 400, 3), np.uint8)
    rgb[:, 200:] = 255
    found = landmarks.Fan(net, "cpu").landmarks(rgb, FACE)
    side, corner = 400 * 200 / 195, np.array([200.0, 180.0 - 0.12 * 200]) - 200 * 200 / 195
    cells = np.array([[n % 60 + 2, n // 2 + 2] for n in range(68)])
    assert np.allclose(found, (cells + (0.75, 0.25)) * side / 64 + corner - 0.5)
    # The face's middle is the cut-out's.
    assert net.seen.shape == (1, 3, 256, 256) and net.seen[0, 0, 128, 120] < 0.1 and net.seen[0, 0, 128, 136] > 0.9


def test_a_peak_at_the_border_is_taken_as_it_is():
    heat = np.zeros((2, 8, 8))
    heat[0, 0, 7] = heat[1, 7, 0] = 1
    assert landmarks.peaks(heat).tolist() == [[7, 0], [0, 7]]


def test_without_weights_the_finder_s_points_are_taken(tmp_path):
    with landmarks.leased(Settings(models_dir=tmp_path), "cpu") as places:
        assert places.name == "dlib" and places.landmarks(np.zeros((9, 9, 3), np.uint8), FACE) is FACE.landmarks


@pytest.mark.parametrize("folder", ["face-alignment", "torch/hub/checkpoints"])
def test_weights_are_found_where_people_and_face_alignment_keep_them(tmp_path, folder):
    from face_alignment.models import FAN

    (tmp_path / folder).mkdir(parents=True)
    torch.manual_seed(0)
    net = FAN(4).eval()
    torch.save(net.state_dict(), tmp_path / folder / "2DFAN4-11f355bf06.pth.tar")
    picture = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    with landmarks.leased(Settings(models_dir=tmp_path), "cpu") as places:
        assert places.name == "face-alignment"
        assert np.array_equal(places.landmarks(picture, FACE), landmarks.Fan(net, "cpu").landmarks(picture, FACE))


def test_another_file_under_that_name_is_named(tmp_path):
    (tmp_path / "face-alignment").mkdir()
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "face-alignment" / "2DFAN4-00.pth.tar")
    with pytest.raises(UnsupportedModel, match="2DFAN4-00"), landmarks.leased(Settings(models_dir=tmp_path), "cpu"):
        pass
