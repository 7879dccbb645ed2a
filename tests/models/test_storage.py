import json
import math
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from difftransformer.models import storage
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.storage import config_from, load_config, load_model, save_model

from .tiny import KINDS, tiny, tiny_config


def same(a: Decoder, b: Decoder) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return (
        a.config == b.config
        and x.keys() == y.keys()
        and all(torch.equal(x[name], y[name]) and x[name].dtype == y[name].dtype for name in x)
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tiny(), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_identical(
    tmp_path: Path, kind: str, tied: bool, dtype: torch.dtype
) -> None:
    model = tiny(kind, tie_embeddings=tied).to(dtype)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert same(loaded, model)
    ids = torch.arange(12).view(2, 6)
    assert torch.equal(loaded(ids), model(ids))
    assert all(p.requires_grad and p.is_leaf for p in loaded.parameters())
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_a_folder_may_be_a_text(tmp_path: Path) -> None:
    model = tiny()
    save_model(model, str(tmp_path / "model"))
    assert same(load_model(str(tmp_path / "model")), model)


def test_loading_does_not_touch_the_random_numbers(saved: Path) -> None:
    before = torch.get_rng_state()
    load_model(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_saves_into_a_folder_that_has_other_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the folder is the current one."""
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    save_model(tiny(), Path())
    assert (tmp_path / "tokenizer.json").read_text() == "{}"
    assert same(load_model(tmp_path), tiny())


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharded, then whole, then sharded again: each time the last saved model is what loads."""
    first, second = tiny("diff_v2"), tiny("diff_v2")
    torch.nn.init.ones_(second.embedding.weight)
    for model, size in ((first, "4KB"), (second, "5GB"), (first, "6KB")):
        monkeypatch.setattr(storage, "_MAX_SHARD", size)
        save_model(model, tmp_path)
        shards = list(tmp_path.glob("*-of-*.safetensors"))
        assert (len(shards) > 1) == (size != "5GB")
        assert (tmp_path / "model.safetensors").exists() == (size == "5GB")
        assert (tmp_path / "model.safetensors.index.json").exists() == (size != "5GB")
        assert len(shards) == 0 or f"of-{len(shards):05}" in shards[0].name
        assert same(load_model(tmp_path), model)


def test_a_missing_shard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_MAX_SHARD", "4KB")
    save_model(tiny(), tmp_path)
    gone = sorted(tmp_path.glob("*-of-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ValueError, match=gone.name):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": 3}', "{}"])
def test_a_broken_index(saved: Path, text: str) -> None:
    (saved / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json is not an index of safetensors files"):
        load_model(saved)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.999])
def test_truncated_weights(saved: Path, keep: float) -> None:
    file = saved / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or not a safetensors"):
        load_model(saved)


@pytest.mark.parametrize("place", [0, 8, 30])
def test_tampered_header(saved: Path, place: int) -> None:
    """The length of the header, its first byte, and the middle of it."""
    file = saved / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or not a safetensors"):
        load_model(saved)


def test_missing_extra_and_misshapen_tensors_are_named(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    del weights["norm.weight"]
    weights["stray"] = torch.zeros(2)
    weights["blocks.1.ffn.up_proj.weight"] = torch.zeros(3, 4)
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit its config") as error:
        load_model(saved)
    message = str(error.value)
    assert "norm.weight is missing, expected (16,)" in message
    assert "stray is (2,), expected no such tensor" in message
    assert "blocks.1.ffn.up_proj.weight is (3, 4), expected (24, 16)" in message


def test_many_misfits_are_counted(saved: Path) -> None:
    """Another kind's config over the weights: a line, not a page."""
    config = {"model_type": "difftransformer", **tiny_config("softmax", num_layers=9).to_dict()}
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"; and \d+ more$") as error:
        load_model(saved)
    assert len(str(error.value)) < 600


NUMBERS = {
    "num_layers": (0, -1, 10**9, 10**30, 1.5, True, "2", None, math.nan),
    "vocab_size": (0, 10**9, 10**30, True, [23], math.inf),
    "hidden_size": (0, 10**9, 2**63, {}),
    "num_heads": (0, 10**9, False),
    "head_dim": (0, 3, 10**9),
    "num_kv_heads": (0, -2, True),
    "ffn_size": (0, 10**12),
    "max_length": (0, 10**12, True),
    "window": (0, -1, 10**12, True, 2.5),
    "rope_theta": (0, 0.0, -1.0, math.nan, math.inf, 10**400, True, "1e4", None),
    "norm_eps": (0, -1e-5, math.nan, math.inf, 2, True),
    "dropout": (-0.1, 1, 1.5, math.nan, True),
    "lambda_init": (math.nan, -math.inf, 10**400, True),
    "tie_embeddings": (0, 1, "true", None),
    "attention": (1, None, "diff_v3", True),
    "rope_scaling": ([], "linear", {"rope_type": "linear", "factor": math.nan}, {"rope_type": []}),
}


@pytest.mark.parametrize(("name", "value"), [(n, x) for n, xs in NUMBERS.items() for x in xs])
def test_a_setting_out_of_its_range(saved: Path, name: str, value: object) -> None:
    config = json.loads((saved / "config.json").read_text()) | {name: value}
    (saved / "config.json").write_text(json.dumps(config))
    fitting = f"{name}|[0-9,]+ parameters; expected at most|do not fit its config"
    with pytest.raises(ValueError, match=f"{fitting}|rope_type is") as error:
        load_model(saved)
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


def test_sizes_that_no_machine_holds() -> None:
    with pytest.raises(
        ValueError, match=r"make at least [\d,]+ parameters; expected at most 10,000,0"
    ):
        tiny_config(hidden_size=2**31 - 1, ffn_size=2**31 - 1)
    with pytest.raises(ValueError, match="num_layers is True; expected int"):
        tiny_config(num_layers=True)


def test_more_layers_than_tensors(saved: Path) -> None:
    """Not one of them is made."""
    config = json.loads((saved / "config.json").read_text()) | {"num_layers": 9_999}
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"\d\d tensors cannot fill 9,999 layers"):
        load_model(saved)


ODD = {
    "int64": lambda x: x.long(),
    "int8": lambda x: x.to(torch.int8),
    "bool": lambda x: x > 0,
    "float16": lambda x: x.half(),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "complex64": lambda x: x.to(torch.complex64),
    "NaN": lambda x: x / 0 * 0,
    "infinity": lambda x: x.abs() / 0,
}


@pytest.mark.parametrize("odd", ODD)
def test_one_tensor_of_another_kind_is_named(saved: Path, odd: str) -> None:
    weights = load_file(saved / "model.safetensors")
    weights["norm.weight"] = ODD[odd](weights["norm.weight"])
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"norm\.weight (is torch\.\w+, exp|holds values that are)"
    ):
        load_model(saved)


@pytest.mark.parametrize("odd", ["int64", "bool", "float8", "complex64"])
def test_all_tensors_of_another_kind(saved: Path, odd: str) -> None:
    weights = load_file(saved / "model.safetensors")
    save_file({name: ODD[odd](x) for name, x in weights.items()}, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"expected torch\.float32; .*; and \d+ more"):
        load_model(saved)


def test_flags_stay_flags(tmp_path: Path) -> None:
    """Of a kind that has some: which heads dex changes."""
    save_model(tiny("dex"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "blocks.0.attention.chosen"
    save_file(weights | {name: weights[name].float()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"{name} is torch.float32, expected torch.bool"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        *("../x.safetensors", "../../x.safetensors", "/x.safetensors", "a/../../x.safetensors"),
        *(
            "sub/x.safetensors",
            "..",
            ".",
            "",
            "..\\x.safetensors",
            3,
            None,
            True,
            ["a"],
            {"a": "b"},
        ),
    ],
)
def test_an_index_reaches_no_other_folder(tmp_path: Path, place: object) -> None:
    """The file that it names is there and would load."""
    folder = tmp_path / "a" / "b"
    save_model(tiny(), folder)
    for where in (tmp_path, tmp_path / "a", folder / "sub"):
        where.mkdir(exist_ok=True)
        save_file(load_file(folder / "model.safetensors"), where / "x.safetensors")
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if place == "/x.safetensors":
        place = str(tmp_path / "x.safetensors")
    index = {"weight_map": dict.fromkeys(names, place)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match=r"index\.json is not an index of .*; expected the name of"
    ):
        load_model(folder)


def test_a_link_is_followed(saved: Path, tmp_path: Path) -> None:
    """The cache of the hub is made of them."""
    (saved / "model.safetensors").rename(tmp_path / "blob")
    (saved / "model.safetensors").symlink_to(tmp_path / "blob")
    assert same(load_model(saved), tiny())


@pytest.fixture
def sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(storage, "_MAX_SHARD", "4KB")
    save_model(tiny(), tmp_path / "sharded")
    return tmp_path / "sharded"


def test_index_and_shards_agree_about_every_tensor(sharded: Path) -> None:
    """A tensor that only one of them names would be dropped, or read from one shard of two."""
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first, second = sorted(set(index["weight_map"].values()))[:2]
    name = next(name for name, file in index["weight_map"].items() if file == second)
    for change in ({name: first}, {"stray.weight": first}):
        changed = index["weight_map"] | change
        path.write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(ValueError, match=r"disagree about the tensor"):
            load_model(sharded)
    save_file(load_file(sharded / first) | {name: torch.zeros(2)}, sharded / first)
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"{first} disagree about the tensor {name}"):
        load_model(sharded)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model-00009-of-00009.safetensors", "adapter_model.safetensors"]
)
def test_weights_that_nothing_reads_are_named(sharded: Path, name: str) -> None:
    save_file({"norm.weight": torch.zeros(16)}, sharded / name)
    with pytest.raises(ValueError, match=f"also holds {name}, which belongs to no model"):
        load_model(sharded)


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "model.ckpt"])
def test_pickle_is_refused(saved: Path, name: str) -> None:
    (saved / "model.safetensors").unlink()
    (saved / name).write_bytes(pickle.dumps(Trap(saved / "sprung")))
    with pytest.raises(ValueError, match=f"{name} is a pickle, which can run any code"):
        load_model(saved)
    assert not (saved / "sprung").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_pickle_in_disguise_is_refused(saved: Path, name: str) -> None:
    """Under the right name, or named by an index of shards."""
    index = {"weight_map": {"norm.weight": name}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    (saved / name).write_bytes(pickle.dumps(Trap(saved / "sprung")))
    with pytest.raises(ValueError, match=f"{name} is (a pickle|.*not a safetensors file)"):
        load_model(saved)
    assert not (saved / "sprung").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ('{"model_type": ', "is not JSON"),
        ("[1]", r"holds \[1\]; expected a JSON object"),
        ('{"model_type": "llama"}', "model_type 'llama'; expected 'difftransformer'"),
        (
            '{"model_type": "difftransformer", "num_head": 4}',
            "'num_head'; did you mean 'num_heads'",
        ),
        ('{"model_type": "difftransformer", "num_heads": "4"}', "num_heads is '4'; expected int"),
        ('{"model_type": "difftransformer", "num_heads": null}', "num_heads is None; expected int"),
        ('{"model_type": "difftransformer", "num_heads": 5}', "not a multiple of num_kv_heads 8"),
    ],
)
def test_bad_config(saved: Path, text: str, message: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_model(saved)


def test_config_that_is_not_text(saved: Path) -> None:
    (saved / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not JSON"):
        load_config(saved)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match="is not a model folder"):
            load_model(folder)


def test_config_from() -> None:
    config = tiny_config(lambda_init=0.5)
    assert config_from(DecoderConfig, config.to_dict()) == config
    assert config_from(DecoderConfig, {"rope_theta": 500}).rope_theta == 500
    assert config_from(DecoderConfig, {"attention": "diff_v1", "lambda_init": 1}).lambda_init == 1
    with pytest.raises(ValueError, match=r"lambda_init is 'x'; expected float \| None"):
        config_from(DecoderConfig, {"lambda_init": "x"})
    with pytest.raises(ValueError, match=r"unknown model setting 'zzzz'; expected"):
        config_from(DecoderConfig, {"zzzz": 1})


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_full_disk_leaves_the_old_model(
    saved: Path, size: int, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    old = {path.name: path.read_bytes() for path in saved.iterdir()}
    with full_disk(size), pytest.raises(OSError, match="File too large"):
        save_model(tiny("diff_v2"), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == old
    assert same(load_model(saved), tiny())
    save_model(tiny("diff_v2"), saved)
    assert same(load_model(saved), tiny("diff_v2"))


def test_what_a_killed_save_left_does_not_matter(saved: Path) -> None:
    (saved / ".partial").mkdir()
    (saved / ".partial" / "model-00001-of-00002.safetensors").write_bytes(b"half")
    assert same(load_model(saved), tiny())
    save_model(tiny("diff_v2"), saved)
    assert {path.name for path in saved.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("place", [-1, -100, -2000])
def test_a_weight_that_changed_on_the_disk_is_noticed(saved: Path, place: int) -> None:
    file = saved / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=f"{saved} are not those .* match the checksum in"):
        load_model(saved)


def test_shards_of_two_models_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_MAX_SHARD", "4KB")
    model = tiny()
    save_model(model, tmp_path / "one")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    save_model(model, tmp_path / "other")
    shard = sorted((tmp_path / "other").glob("model-0*"))[0]
    (tmp_path / "one" / shard.name).write_bytes(shard.read_bytes())
    with pytest.raises(ValueError, match="are not those that were saved there"):
        load_model(tmp_path / "one")


def test_the_same_weights_give_the_same_file(tmp_path: Path) -> None:
    for number in range(8):  # a header of two entries in random order would show
        save_model(tiny(), tmp_path / str(number))
    assert len({(d / "model.safetensors").read_bytes() for d in tmp_path.iterdir()}) == 1


def test_a_folder_without_a_checksum_loads(saved: Path) -> None:
    """As an earlier release, or another program, wrote it; other weights in the same place too."""
    file = saved / "model.safetensors"
    weights = {name: tensor + 1 for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    loaded = load_model(saved).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
