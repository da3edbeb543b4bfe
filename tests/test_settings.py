"""Settings: where they come from, which source wins, and what a wrong one is told."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from webui import settings
from webui.errors import InvalidRequest


def given(*argv: str) -> dict:
    parser = argparse.ArgumentParser()
    settings.add_flags(parser, serving=True)
    return vars(parser.parse_args(argv))


def test_defaults_are_the_projects_folders_and_an_open_port():
    chosen = settings.load({}, {})
    assert chosen.models_dir == settings.PROJECT / "models"
    assert chosen.outputs_dir == settings.PROJECT / "outputs"
    assert (chosen.port, chosen.device, chosen.longest_side, chosen.max_voice_minutes) == (None, "auto", 2048, 30.0)
    assert not chosen.listen and not chosen.share


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text('port = 7001\nlongest_side = 1001\nmax_voice_minutes = 11\ndevice = "cpu"\n')
    environ = {"GALATEA_PORT": "7002", "GALATEA_LONGEST_SIDE": "1002", "GALATEA_SETTINGS": str(file)}
    chosen = settings.load(given("--port", "7003"), environ)
    assert (chosen.port, chosen.longest_side, chosen.max_voice_minutes) == (7003, 1002, 11.0)
    assert chosen.device == "cpu"


def test_a_relative_folder_in_the_file_starts_at_the_file(tmp_path: Path):
    (tmp_path / "s.toml").write_text('outputs_dir = "results"')
    assert settings.load(given("--settings", str(tmp_path / "s.toml")), {}).outputs_dir == tmp_path / "results"


def test_a_name_that_begins_with_a_tilde_is_a_name_when_there_is_no_such_user(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = settings.load(given("--models-dir", "~nobody of this name", "--outputs-dir", "~/results"), {})
    assert chosen.models_dir == tmp_path / "~nobody of this name"
    assert chosen.outputs_dir == Path.home() / "results"
    with pytest.raises(InvalidRequest, match="cannot be read"):
        settings.load({}, {"GALATEA_SETTINGS": "~nobody of this name"})


def test_large_bounds_are_written_out():
    with pytest.raises(InvalidRequest, match="from 1 to 1048576, got '0'"):
        settings.load({}, {"GALATEA_MAX_UPLOAD_MB": "0"})


def test_several_users_as_a1111_writes_them():
    chosen = settings.load(given("--gradio-auth", "anna:a:b,bob:c"), {})
    assert chosen.gradio_auth == (("anna", "a:b"), ("bob", "c"))


def test_a_password_is_in_no_repr_and_in_no_error():
    assert "s3cret" not in repr(settings.load({}, {"GALATEA_GRADIO_AUTH": "anna:s3cret"}))
    with pytest.raises(InvalidRequest) as caught:
        settings.load({}, {"GALATEA_GRADIO_AUTH": "s3cret"})
    assert "s3cret" not in str(caught.value)
    assert "user:password" in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PORT", "0", "whole number from 1 to 65535"),
        ("PORT", "many", "whole number"),
        ("DEVICE", "gpu", "cuda:N"),
        ("LONGEST_SIDE", "10", "from 256"),
        ("MAX_VOICE_MINUTES", "nan", "a number from"),
        ("LISTEN", "maybe", "true or false"),
        ("LANGUAGE", "xx", "en or zh"),
        ("PRECISION", "half", "auto, fp32, fp16 or bf16"),
        ("OFFLOAD", "all", "auto, none, model or sequential"),
        ("ATTENTION", "flash", "auto, sdpa or sliced"),
        ("TF32", "maybe", "auto, on or off"),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_is_expected(variable: str, value: str, expected: str):
    with pytest.raises(InvalidRequest) as caught:
        settings.load({}, {f"GALATEA_{variable}": value})
    assert f"GALATEA_{variable}" in str(caught.value)
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [("colour = 1", "'colour'"), ("port = ", "not valid TOML"), ('port = "x"', "whole number"), ("listen = 3", "true or")],
)
def test_a_wrong_settings_file_is_named(tmp_path: Path, content: str, expected: str):
    file = tmp_path / "s.toml"
    file.write_text(content)
    with pytest.raises(InvalidRequest, match=r"s\.toml") as caught:
        settings.load(given("--settings", str(file)), {})
    assert expected in str(caught.value)


def test_a_named_settings_file_that_is_missing_is_an_error(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="cannot be read"):
        settings.load(given("--settings", str(tmp_path / "none.toml")), {})


def test_share_needs_a_password_or_an_explicit_yes():
    with pytest.raises(InvalidRequest, match="--share-open"):
        settings.load(given("--share"), {}).check_serving()
    settings.load(given("--share", "--share-open"), {}).check_serving()
    settings.load(given("--share", "--gradio-auth", "a:b"), {}).check_serving()


def test_listening_without_a_password_warns():
    assert settings.load(given("--listen"), {}).serving_warnings()
    assert not settings.load(given("--listen", "--gradio-auth", "a:b"), {}).serving_warnings()
    assert not settings.load({}, {}).serving_warnings()


def test_lite_is_what_the_launcher_says_or_what_is_installed():
    import importlib.util

    assert settings.load({}, {}).lite == (importlib.util.find_spec("torch") is None)
    assert settings.load({}, {"GALATEA_LITE": "1"}).lite
    assert not settings.load({}, {"GALATEA_LITE": "0"}).lite


def test_how_models_are_run_is_left_open_or_said_part_by_part():
    from webui.imaging.plans import Plan

    assert settings.load({}, {}).plan_overrides == {}
    flags = ["--precision", "bf16", "--offload", "model", "--attention", "sliced", "--tf32", "off", "--compile"]
    flags += ["--channels-last", "on", "--vae-slicing", "auto", "--vae-tiling", "on"]
    said = settings.load(given(*flags), {"GALATEA_VAE_SLICING": "off"}).plan_overrides
    assert said == {
        "precision": "bf16", "offload": "model", "attention_slicing": True, "tf32": False, "compile": True,
        "channels_last": True, "vae_tiling": True,
    }  # fmt: skip
    Plan(**said)
    assert settings.load(given("--attention", "sdpa"), {}).plan_overrides == {"attention_slicing": False}
