"""A1111's HTTP API under /sdapi/v1: field names, answers and errors as A1111 has them, behind the studio's own guard."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests import enhancers as made
from tests import tiny
from webui import devices
from webui.api import guard as guarding
from webui.api import sdapi
from webui.api.guard import Guard
from webui.api.jobs import http_api
from webui.artifacts import Artifacts
from webui.builtin.kinds import KINDS
from webui.imaging import infotext
from webui.jobs.service import JobService
from webui.jobs.types import JobState
from webui.settings import Settings

SINGLE, BATCH = "/sdapi/v1/extra-single-image", "/sdapi/v1/extra-batch-images"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    made.safetensors(folder / "ESRGAN" / "plain-2x.safetensors", made.compact(2, nearest=True))
    made.safetensors(folder / "RealESRGAN" / "Another.safetensors", made.swinir())
    made.safetensors(folder / "ESRGAN" / "broken.safetensors", made.restoreformer())
    made.safetensors(folder / "GFPGAN" / "RestoreFormer.safetensors", made.restoreformer())
    return folder


class Studio:
    """The API behind a guard, with the kinds that make pictures."""

    def __init__(self, models: Path, outputs: Path, **chosen: Any):
        self.settings = Settings(models_dir=models, outputs_dir=outputs, device="cpu", **chosen)
        self.artifacts = Artifacts(outputs)
        self.service = JobService(KINDS, self.artifacts, self.settings, alone=True)
        self.guard = Guard(self.settings, http_api(self.service, self.artifacts, self.settings))
        page = Route("/{path:path}", lambda _request: PlainTextResponse("page"), methods=["GET", "POST"])
        self.app = guarding.Porch(Starlette(routes=[page], middleware=[self.guard.middleware]), self.guard)

    def visitor(self) -> TestClient:
        return TestClient(self.app, base_url="http://localhost:7860", raise_server_exceptions=False)


@pytest.fixture
def studio(models: Path, tmp_path: Path) -> Iterator[Studio]:
    with tiny.calm():
        made_one = Studio(models, tmp_path / "outputs")
        yield made_one
        made_one.service.close()
        devices.unload()


@pytest.fixture
def visitor(studio: Studio) -> TestClient:
    return studio.visitor()


def encoded(seed: int = 1, text: str = "") -> str:
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 80, 3), np.uint8))
    return base64.b64encode(infotext.embed(picture, text)).decode()


def pixels(image: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(image))) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def failed(reply: httpx.Response, status: int) -> dict[str, Any]:
    """A1111's errors have these four."""
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["error", "detail", "body", "errors"] and "x-process-time" in reply.headers
    return reply.json()


# ---- what is made


def test_a_picture_is_enlarged_as_a1111_does(visitor: TestClient):
    reply = visitor.post(SINGLE, json={"image": encoded(), "upscaler_1": "plain-2x", "upscaling_resize": 2})
    assert reply.status_code == 200 and list(reply.json()) == ["html_info", "image"]
    assert reply.json()["html_info"] == "<p>Postprocess upscale by: 2, Postprocess upscaler: plain-2x</p>"
    assert np.array_equal(pixels(reply.json()["image"]), pixels(encoded()).repeat(2, 0).repeat(2, 1))
    assert float(reply.headers["x-process-time"]) > 0


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({"upscaler_1": "Lanczos"}, (160, 128)), ({"upscaler_1": "Nearest", "upscaling_resize": 1.5}, (120, 96)),
        ({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 100}, (100, 100)),
        (
            {
                "upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 100,
                "upscaling_crop": False,
            },
            (125, 100),
        ),
        ({"upscaler_1": "Lanczos", "resize_mode": 1}, (512, 512)), ({}, (80, 64)), ({"upscaler_2": "Lanczos"}, (80, 64)),
    ],
)  # fmt: skip
def test_sizes_are_what_they_are_there(asked: dict[str, Any], size: tuple[int, int], visitor: TestClient):
    reply = visitor.post(SINGLE, json={"image": encoded(), **asked})
    assert pixels(reply.json()["image"]).shape[1::-1] == size
    if size == (80, 64):
        assert reply.json()["html_info"] == "<p></p>" and np.array_equal(pixels(reply.json()["image"]), pixels(encoded()))


def test_all_fields_of_clients_are_taken_and_unknown_ones_passed_over(visitor: TestClient):
    """As webuiapi sends them."""
    body = {
        "resize_mode": 0, "show_extras_results": True, "gfpgan_visibility": 0, "codeformer_visibility": 0,
        "codeformer_weight": 0, "upscaling_resize": 2, "upscaling_resize_w": 512, "upscaling_resize_h": 512,
        "upscaling_crop": True, "upscaler_1": "Nearest", "upscaler_2": "Lanczos", "extras_upscaler_2_visibility": 0.5,
        "upscale_first": False, "image": "data:image/png;base64," + encoded(), "something": {"new": [1]},
    }  # fmt: skip
    reply = visitor.post(SINGLE, json=body)
    assert "Postprocess upscaler 2: Lanczos" in reply.json()["html_info"]
    assert visitor.post(BATCH, json={**body, "imageList": []}).json() == {"html_info": "<p></p>", "images": []}


def test_many_pictures_come_back_in_their_order(visitor: TestClient, studio: Studio):
    pictures = [{"data": encoded(seed), "name": f"holiday {seed}.png"} for seed in (1, 2, 3)]
    reply = visitor.post(BATCH, json={"imageList": pictures, "upscaler_1": "Nearest"})
    assert list(reply.json()) == ["html_info", "images"] and len(reply.json()["images"]) == 3
    for seed, image in zip((1, 2, 3), reply.json()["images"], strict=True):
        assert np.array_equal(pixels(image), pixels(encoded(seed)).repeat(2, 0).repeat(2, 1))
    jobs = studio.service.jobs()
    assert [job.kind for job in jobs] == ["extras"] * 3, "the history has them"
    assert any("holiday 2" in job.result.artifacts[0].name for job in jobs)


def test_infotext_goes_along(visitor: TestClient):
    theirs = "a fox\nSteps: 20, Sampler: Euler a, Seed: 5, Size: 80x64"
    reply = visitor.post(SINGLE, json={"image": encoded(text=theirs), "upscaler_1": "Nearest"})
    text = infotext.extract(io.BytesIO(base64.b64decode(reply.json()["image"])))
    assert text == theirs + ", Postprocess upscale by: 2, Postprocess upscaler: Nearest"


def test_restorers_are_one_job_each_after_the_picture_was_enlarged():
    body = sdapi.SingleImage(
        upscaler_1="x", resize_mode=1, gfpgan_visibility=0.5, codeformer_visibility=1, codeformer_weight=0.3, upscale_first=False
    )
    assert body.steps() == [
        {"upscaler": "x", "size": "512x512", "crop": True, "restore": "GFPGAN", "restore_strength": 0.5, "fidelity": 0.3},
        {"restore": "CodeFormer", "restore_strength": 1, "fidelity": 0.3},
    ]
    assert sdapi.SingleImage(codeformer_visibility=0.2).steps() == [
        {"restore": "CodeFormer", "restore_strength": 0.2, "fidelity": 0.0}
    ]
    assert sdapi.SingleImage().steps() == []


# ---- what there is


def test_upscalers_are_listed_as_there(visitor: TestClient, models: Path):
    assert visitor.get("/sdapi/v1/upscalers").json() == [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4}
        for name in ("None", "Lanczos", "Nearest")
    ] + [
        {
            "name": "Another", "model_name": "Another", "model_path": "models/RealESRGAN/Another.safetensors", "model_url": None,
            "scale": 2,
        },
        {
            "name": "plain-2x", "model_name": "plain-2x", "model_path": "models/ESRGAN/plain-2x.safetensors", "model_url": None,
            "scale": 2,
        },
    ]  # fmt: skip
    assert str(models) not in visitor.get("/sdapi/v1/upscalers").text


def test_face_restorers_are_those_whose_files_are_there(visitor: TestClient, tmp_path: Path):
    assert visitor.get("/sdapi/v1/face-restorers").json() == [{"name": "RestoreFormer", "cmd_dir": "models/GFPGAN"}]
    for chosen in ({}, {"lite": True}):
        bare = Studio(tmp_path / "nothing", tmp_path / "other", **chosen)
        assert bare.visitor().get("/sdapi/v1/face-restorers").json() == []
        assert len(bare.visitor().get("/sdapi/v1/upscalers").json()) == 3
        bare.service.close()


# ---- errors


def test_an_unknown_upscaler_is_an_error_of_the_server(visitor: TestClient):
    told = failed(visitor.post(SINGLE, json={"image": encoded(), "upscaler_1": "nothing"}), 500)
    assert told["error"] == "ModelMissing" and "There is no upscaler 'nothing'" in told["errors"] and told["body"] == ""


def test_a_restorer_whose_file_is_not_there_says_where_it_goes(visitor: TestClient):
    told = failed(visitor.post(SINGLE, json={"image": encoded(), "gfpgan_visibility": 1}), 500)
    assert "There is no face restorer 'GFPGAN'. Put it into models/GFPGAN." in told["detail"]


@pytest.mark.parametrize("image", ["", "no base64!", "data:image/png;base64,", base64.b64encode(b"text").decode()])
def test_what_is_no_picture_is_answered_as_there(image: str, visitor: TestClient):
    told = failed(visitor.post(SINGLE, json={"image": image, "upscaler_1": "Lanczos"}), 500)
    assert (told["error"], told["detail"], told["errors"]) == (
        "HTTPException", "Invalid encoded image", "500: Invalid encoded image",
    )  # fmt: skip


def test_pictures_by_url_are_fetched_only_where_the_owner_allows_it(visitor: TestClient):
    told = failed(visitor.post(SINGLE, json={"image": "http://example.org/x.png", "upscaler_1": "Lanczos"}), 500)
    assert told["detail"] == "Requests not allowed"


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"image": "x", "upscaling_resize": 9}, "upscaling_resize"), ({"resize_mode": 2}, "resize_mode"), ({"image": 5}, "image"),
        ({"gfpgan_visibility": -1}, "gfpgan_visibility"), ({"upscaling_resize_w": 0}, "upscaling_resize_w"),
    ],
)  # fmt: skip
def test_a_field_that_breaks_its_bounds_is_fastapis_422(body: dict[str, Any], place: str, visitor: TestClient):
    reply = visitor.post(SINGLE, json=body)
    assert reply.status_code == 422 and reply.json()["detail"][0]["loc"] == ["body", place]
    assert set(reply.json()["detail"][0]) == {"type", "loc", "msg"}


def test_a_batch_needs_its_list(visitor: TestClient):
    reply = visitor.post(BATCH, json={})
    assert reply.status_code == 422 and reply.json()["detail"][0]["loc"] == ["body", "imageList"]


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [(b"{", {}, 400), (b"[]", {}, 400), (b"{}", {"Content-Type": "text/plain"}, 415), (b" " * (3 << 20), {}, 413)],
)
def test_bodies_are_read_under_the_studios_limits(
    content: bytes, headers: dict[str, str], status: int, models: Path, tmp_path: Path
):
    small = Studio(models, tmp_path / "outputs", max_upload_mb=1)
    reply = small.visitor().post(SINGLE, content=content, headers={"Content-Type": "application/json", **headers})
    failed(reply, status)
    small.service.close()


def test_what_is_not_there_is_404_and_other_methods_405(visitor: TestClient):
    assert visitor.get("/sdapi/v1/nothing").status_code == 404 and visitor.get(SINGLE).status_code == 405


# ---- who may come in


def test_it_stands_behind_the_same_guard(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    closed = Studio(models, tmp_path / "outputs", gradio_auth=(("anna", "word"),))
    visitor = closed.visitor()
    for path in ("/sdapi/v1/upscalers", SINGLE):
        reply = visitor.request("GET" if path != SINGLE else "POST", path, json={})
        assert reply.status_code == 401 and reply.headers["www-authenticate"].startswith("Basic")
    assert visitor.get("/sdapi/v1/upscalers", auth=("anna", "word")).status_code == 200
    assert visitor.get("/sdapi/v1/upscalers", headers={"Host": "evil.example"}).status_code == 403
    assert visitor.get("/sdapi/v1/upscalers", headers={"Origin": "http://evil.example"}).status_code == 403
    monkeypatch.setattr(guarding, "POSTS_PER_MINUTE", {SINGLE: 2})
    busy = Studio(models, tmp_path / "busy")
    assert [busy.visitor().post(SINGLE, json={"image": ""}).status_code for _ in range(3)] == [500, 500, 429]
    for studio in (closed, busy):
        studio.service.close()


def test_without_a_password_any_authorization_is_tolerated(visitor: TestClient):
    for written in ("", "Basic eDp5", "Bearer x"):
        assert visitor.get("/sdapi/v1/upscalers", headers={"Authorization": written}).status_code == 200


def test_a_job_that_nobody_waits_for_is_cancelled(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    async def gone(_request: Any) -> bool:
        return True

    monkeypatch.setattr("starlette.requests.Request.is_disconnected", gone)
    large = io.BytesIO()
    Image.new("RGB", (1200, 900)).save(large, "PNG")
    image = base64.b64encode(large.getvalue()).decode()
    reply = studio.visitor().post(SINGLE, json={"image": image, "upscaler_1": "Another", "upscaling_resize": 8})
    assert failed(reply, 500)["error"] == "Cancelled"
    assert [job.state for job in studio.service.jobs()] == [JobState.CANCELLED]


def test_no_answer_names_a_folder(visitor: TestClient, studio: Studio, models: Path):
    replies = [
        visitor.post(SINGLE, json={"image": encoded(), "upscaler_1": name}).text for name in ("broken", "nothing", "Lanczos")
    ]
    told = json.dumps(replies)
    assert str(models) not in told and str(studio.settings.outputs_dir) not in told
