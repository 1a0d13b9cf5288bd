"""Files of weights of other codes: what is read, and that nothing in them is ever run."""

import collections
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch_layout
from torch_layout import BFLOAT16, Parameter, StateDict, Storage, Tensor, pickled, placed, records

from eqloop import InputError
from eqloop.interop import read_config, read_weights

RNG = np.random.default_rng(0)
ARRAYS = {
    "float32": RNG.normal(size=(3, 4)).astype(np.float32),
    "float64": RNG.normal(size=(2, 1, 2)),
    "float16": RNG.normal(size=5).astype(np.float16),
    "bfloat16": RNG.normal(size=(2, 3)).astype(BFLOAT16),
    "int64": np.array(7),
    "int32": np.arange(4, dtype=np.int32),
    "uint8": np.arange(3, dtype=np.uint8),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


def same(read: Any, wanted: np.ndarray) -> bool:
    array = np.asarray(read)
    assert not array.flags.writeable
    return (
        read.shape == array.shape == wanted.shape
        and read.dtype == array.dtype == wanted.dtype
        and array.tobytes() == wanted.tobytes()
    )


# --- what is read


def test_every_dtype_and_container(tmp_path):
    saved = {
        "state": StateDict({name: Tensor(array) for name, array in ARRAYS.items()}),
        "parameter": Parameter(ARRAYS["float32"]),
        "plain": [1, -(2**70), 0.5, "é\n", None, True, (1, (2, 3, 4, 5)), b"\xff"],
        3: {},
    }
    read = read_weights(torch_layout.save(saved, tmp_path / "step_1"))
    assert all(same(read["state"][name], array) for name, array in ARRAYS.items())
    assert same(read["parameter"], ARRAYS["float32"])
    assert read["plain"][:-1] == saved["plain"][:-1]
    assert read[3] == {}


def test_strides_offsets_and_shared_storages(tmp_path):
    numbers = np.arange(20, dtype=np.float32)
    shared = Storage(numbers)
    views = {
        "transposed": numbers[:12].reshape(3, 4).T,
        "row": numbers[8:12],
        "every third": numbers[1:19:3],
        "last": numbers[19:].reshape(()),
    }
    saved = {
        name: Tensor(view, shared, (view.ctypes.data - numbers.ctypes.data) // 4,
                     tuple(stride // 4 for stride in view.strides))
        for name, view in views.items()
    }  # fmt: skip
    read = read_weights(torch_layout.save(saved, tmp_path / "views.pt"))
    assert all((np.asarray(read[name]) == view).all() for name, view in views.items())
    assert np.shares_memory(np.asarray(read["row"]), np.asarray(read["transposed"]))


def test_only_what_is_used_is_read_and_nothing_is_copied(tmp_path):
    large = np.ones(4_000_000, np.float32)
    path = torch_layout.save({"a": Tensor(large), "b": Tensor(large[:3])}, tmp_path / "large")
    tracemalloc.start()
    try:
        read = read_weights(path)
        assert np.asarray(read["a"])[-1] == 1
        assert tracemalloc.get_traced_memory()[1] < large.nbytes / 8
    finally:
        tracemalloc.stop()


def test_safetensors(tmp_path):
    path = tmp_path / "no-suffix"
    plain = {name: array for name, array in ARRAYS.items() if name != "bfloat16"}
    safetensors.numpy.save_file(plain, path)
    read = read_weights(path)
    assert read.keys() == plain.keys()
    assert all(same(read[name], array) for name, array in plain.items())
    header = b'{"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + ARRAYS["bfloat16"].tobytes())
    assert same(read_weights(path)["b"], ARRAYS["bfloat16"])


def test_what_pytorch_itself_writes(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, bias=False))
    module.register_buffer("start", torch.ones(5, dtype=torch.bfloat16))
    saved = {
        "model": module.state_dict(),
        "view": torch.arange(12.0).reshape(3, 4).t()[1:, ::2],
        "parameter": module[0].weight,
        "rng": {"torch": torch.random.get_rng_state(), "numpy": np.random.get_state()},
        "dtype": torch.float32,
    }
    torch.save(saved, tmp_path / "step_1")
    read = read_weights(tmp_path / "step_1")
    assert read["model"].keys() == saved["model"].keys()
    for name, tensor in saved["model"].items():
        np.testing.assert_array_equal(
            np.asarray(read["model"][name]).astype(np.float32), tensor.float().numpy()
        )
    assert read["model"]["start"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(np.asarray(read["view"]), saved["view"].numpy())
    np.testing.assert_array_equal(np.asarray(read["parameter"]), module[0].weight.detach().numpy())
    torch.save(saved, tmp_path / "old", _use_new_zipfile_serialization=False)
    assert "PyTorch before 1.6" in refusal(tmp_path / "old")


def test_pytorch_reads_what_the_tests_write(tmp_path):
    """So the layout of these tests is PyTorch's."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    saved = StateDict({n: Tensor(a) for n, a in ARRAYS.items() if n != "bfloat16"})
    read = torch.load(torch_layout.save(saved, tmp_path / "step_1"), map_location="cpu")
    for name, tensor in read.items():
        np.testing.assert_array_equal(tensor.numpy(), ARRAYS[name])


# --- what is refused


def refusal(path: Path) -> str:
    """The message about a file that is refused, in one line that names it and what to do."""
    with pytest.raises(InputError) as caught:
        read_all(read_weights(path))
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 500
    return text


def read_all(value: Any) -> None:
    """Read the bytes of all tensors at the first level and in state dicts."""
    for part in value.values() if isinstance(value, dict) else ():
        if hasattr(part, "shape"):
            np.asarray(part)
        elif isinstance(part, dict):
            read_all(part)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def programs(command: str) -> dict[str, tuple[bytes, str]]:
    """Pickles that would run `command` if they were unpickled, or that lie, and what is said."""
    system = Calls(os.system, command)
    shell = b"X" + struct.pack("<I", len(command)) + command.encode()
    tensor, storages = pickled({"w": Tensor(np.zeros(4, np.float32))})
    assert len(storages) == 1

    def altered(old: bytes, new: bytes) -> bytes:
        assert tensor.count(old) == 1, (old, tensor)
        return tensor.replace(old, new)

    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    ordered = b"ccollections\nOrderedDict\n"
    return {
        "a call in the state dict": (pickle.dumps({"w": system}, 2), r"names posix\.system"),
        "eval": (pickle.dumps([Calls(eval, "1")], 2), r"names __builtin__\.eval"),
        "exec, nested in a configuration": (
            pickle.dumps({"model": {}, "config": {"arch": {"x": [Calls(exec, "1")]}}}, 4),
            r"names builtins\.exec",
        ),
        "in the key of a dictionary": (pickle.dumps({(system,): 1}, 2), r"names posix\.system"),
        "a name put together on the stack": (
            b"\x80\x04" + short("os") + short("system") + b"\x93" + shell + b"\x85R.",
            r"names os\.system",
        ),
        "a name out of the memo": (
            b"\x80\x04"
            + short("system")
            + b"\x940"
            + short("os")
            + b"h\x00\x93"
            + shell
            + b"\x85R.",
            "instruction POP",
        ),
        "a name that is no text": (b"\x80\x04K\x01K\x02\x93.", "a name that is no text"),
        "an attribute of an allowed module": (
            b"\x80\x04" + short("collections") + short("abc.sys.modules") + b"\x93.",
            r"names collections\.abc\.sys\.modules",
        ),
        "a dotted name that looks allowed": (b"cmodels\n.os.system\n" + shell + b"\x85R.", ""),
        "a placeholder that is called": (b"comegaconf.x\nsystem\n" + shell + b"\x85R.", ""),
        "INST": (b"(" + shell + b"ios\nsystem\n.", "instruction INST"),
        "OBJ": (b"(cos\nsystem\n" + shell + b"o.", r"names os\.system"),
        "an extension": (b"\x82\x01.", "instruction EXT1"),
        "a name with escapes": (
            b"comega\\x63onf\nx\n.",
            r"names omega\\x63onf\.x",
        ),
        "a text of protocol 0": (b"S'\\R'\n.", "instruction STRING"),
        "a call of a text": (short("os.system") + shell + b"\x85R.", "uses a str as a function"),
        "a call of a storage": (b"ctorch\nFloatStorage\n)R.", "as a function"),
        "setstate of a class": (
            b"\x80\x02ctorch.nn\nModule\n)\x81}" + short("__setstate__") + b"Nsb.",
            r"names torch\.nn\.Module",
        ),
        "attributes of a text": (short("x") + b"}b.", "uses a str as attributes"),
        "attributes of a dictionary": (b"}}" + short("__class__") + b"Nsb.", ""),
        "OrderedDict with arguments": (
            ordered + b"]\x85R.",
            r"calls collections\.OrderedDict with other arguments",
        ),
        "OrderedDict with no tuple": (ordered + b"]R.", "as a function"),
        "a new OrderedDict subclass": (ordered + b")\x81.", ""),
        "rebuild without a storage": (
            rebuild + b"(NK\x00))\x89}tR.",
            "_rebuild_tensor_v2 with other arguments",
        ),
        "rebuild of too little": (rebuild + b")R.", "_rebuild_tensor_v2 with other arguments"),
        "entries of a list": (b"]K\x01K\x02s.", "uses a list as entries"),
        "elements of a dictionary": (b"}K\x01a.", "uses a dict as elements"),
        "a list as a key": (b"}]K\x02s.", "as a name in a dictionary"),
        "an odd number of entries": (b"}(K\x01u.", "as entries"),
        "nothing on the stack": (b"s.", "lacks its operand"),
        "nothing above the mark": (b"K\x01(\x85.", "lacks its operand"),
        "no mark": (b"K\x01t.", "lacks its mark"),
        "an unknown memo": (b"h\x07.", "before making it"),
        "two results": (b"NN.", "does not end with one object"),
        "no end": (b"N", "data.pkl: it ends early"),
        "a byte that is no instruction": (b"\xff.", "no instruction is"),
        "a text that is cut off": (b"X\xff\xff\xff\x7fab", "expected 2147483647 bytes"),
        "a number of many digits": (
            altered(b"K\x04tq", b"\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000 + b"tq"),
            "has another size",
        ),
        "a storage that lies about its size": (altered(b"K\x04tq", b"K\x05tq"), "another size"),
        "a storage that is missing": (
            altered(b"\x01\x00\x00\x000", b"\x01\x00\x00\x001"),
            "data/1",
        ),
        "a storage elsewhere": (
            altered(b"X\x01\x00\x00\x000", b"X\x0b\x00\x00\x00../data.pkl"),
            r"no record data/\.\./data\.pkl",
        ),
        "a storage of a text": (altered(b"ctorch\nFloatStorage\n", short("f")), "reference to a"),
        "a reference that is no tuple": (b"K\x01Q.", "reference to a storage"),
        "a shape beyond the storage": (altered(b"K\x04\x85", b"K\x05\x85"), "does not fit"),
        "an offset beyond the storage": (altered(b"QK\x00", b"QK\x01"), "does not fit"),
        "a stride of zero": (
            altered(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85").replace(b"K\x01\x85", b"K\x00\x85"),
            "does not fit",
        ),
        "a negative stride": (
            altered(b"K\x01\x85", b"J\xff\xff\xff\xff\x85"),
            "an impossible shape",
        ),
        "more strides than axes": (altered(b"K\x01\x85", b"K\x01K\x01\x86"), "impossible shape"),
    }


NAMES = sorted(programs("x"))


@pytest.mark.parametrize("name", NAMES)
def test_no_pickle_is_run(name, tmp_path):
    ran = tmp_path / "ran"
    program, message = programs(f"touch {ran}")[name]
    content = records(program, [np.zeros(4, np.float32)])
    path = torch_layout.write_records(tmp_path / "step_1", content)
    if message:
        with pytest.raises(InputError, match=message):
            read_all(read_weights(path))
        refusal(path)
    else:  # a placeholder, or a dictionary without attributes: nothing was called either
        read_weights(path)
    assert not ran.exists()


def test_the_programs_would_run(tmp_path):
    """They are no straw men: `pickle` runs those that call `os.system`."""
    for name in ("a call in the state dict", "a name put together on the stack", "INST"):
        ran = tmp_path / name.replace(" ", "-")
        pickle.loads(programs(f"touch {ran}")[name][0])
        assert ran.exists()


def test_a_pickle_has_a_greatest_length(tmp_path, monkeypatch):
    """Each instruction may make an object, of a hundred times its own size."""
    monkeypatch.setattr("eqloop._weight_files._torch_pickle._MOST_INSTRUCTIONS", 1000)
    for program, message in (
        (b"}" * 1100 + b".", "more than 1,000 pickle instructions"),
        (b"N" * (1 << 24) + b".", "more than 16 MiB"),
    ):
        path = torch_layout.write_records(tmp_path / "step_1", records(program, []))
        assert message in refusal(path)


def test_containers_may_be_nested_deeply_or_in_themselves(tmp_path):
    for program in (b"]" * 100_000 + b"a" * 99_999 + b".", b"]q\x00h\x00a."):
        path = torch_layout.write_records(tmp_path / "step_1", records(program, []))
        assert len(read_weights(path)) == 1


WEIGHTS = {"w": Tensor(np.arange(6, dtype=np.float32)), "b": Tensor(np.zeros(2, np.float32))}


def archive(path: Path, change: Any = None, **options: Any) -> Path:
    content = records(*pickled(WEIGHTS))
    if change:
        change(content)
    return torch_layout.write_records(path, content, **options)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda c: c.pop("data/0"), {}, "no record data/0; download it again"),
        (lambda c: c.update({"data/0": b"1234"}), {}, "storage 0 has another size"),
        (lambda c: c.update(byteorder=b"big"), {}, "byte order b'big', not little"),
        (lambda c: c.update({"constants.pkl": b""}), {}, "not one that torch.save wrote"),
        (lambda c: c.pop("data.pkl"), {}, "not one that torch.save wrote"),
        (None, {"compression": zipfile.ZIP_DEFLATED}, "compressed or encrypted record"),
    ],
)
def test_archives_that_torch_did_not_write(change, options, message, tmp_path):
    assert message in refusal(archive(tmp_path / "step_1", change, **options))


def test_old_archives_do_not_name_their_byte_order(tmp_path):
    path = archive(tmp_path / "step_1", lambda content: content.pop("byteorder"))
    assert np.asarray(read_weights(path)["w"])[5] == 5


def test_files_of_other_formats(tmp_path):
    path = tmp_path / "step_1"
    for content, message in (
        (b"", "is empty"),
        (b"x", "is no file of PyTorch or safetensors"),
        (b"<!DOCTYPE html>", "is no file of PyTorch or safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2), "PyTorch before 1.6"),
        (pickle.dumps({"w": Calls(os.system, f"touch {path}-ran")}), "is no file of PyTorch"),
        (struct.pack("<Q", 2**62) + b"{}", "is no file of PyTorch or safetensors"),
        (struct.pack("<Q", 2) + b"{", "is no file of PyTorch or safetensors"),
        (struct.pack("<Q", 2) + b"{x", "damaged or was cut off"),
        (b"PK\x03\x04", "not a whole zip file"),
    ):
        path.write_bytes(content)
        assert message in refusal(path)
    assert not Path(f"{path}-ran").exists()
    with pytest.raises(InputError, match="does not exist"):
        read_weights(tmp_path / "none")
    with pytest.raises(InputError, match="a folder"):
        read_weights(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a pipe"):
        read_weights(tmp_path / "pipe")


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path):
    whole = archive(tmp_path / "step_1").read_bytes()
    for length in range(1, len(whole), 97):
        (tmp_path / "cut").write_bytes(whole[:length])
        refusal(tmp_path / "cut")


def test_a_table_of_contents_that_lies(tmp_path):
    whole = archive(tmp_path / "step_1").read_bytes()
    end = whole.rindex(b"PK\x05\x06")
    start = int.from_bytes(whole[end + 16 : end + 20], "little")
    path = tmp_path / "lies"
    for place, length in ((42, 4), (20, 4), (24, 4), (16, 4)):  # offset, sizes, CRC of data.pkl
        for value in (0, 1, 2**31, 2**32 - 1):
            damaged = bytearray(whole)
            damaged[start + place : start + place + length] = value.to_bytes(length, "little")
            path.write_bytes(damaged)
            if bytes(damaged) != whole and not (place == 42 and value == 0):
                refusal(path)
    path.write_bytes(whole[: end + 12] + struct.pack("<II", 2**32 - 2, 0) + whole[end + 20 :])
    refusal(path)
    large = tmp_path / "large"  # a table as large as the file would take ten times its memory
    with large.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(1 << 28)
        file.seek(0, os.SEEK_END)
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, (1 << 28) - 64, 4, 0))
    assert "its table of contents is too large" in refusal(large)


def test_two_records_of_one_name(tmp_path):
    path = tmp_path / "step_1"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("step_1/data.pkl", b"N.")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("step_1/data.pkl", b"K\x01.")
    assert "two records have one name" in refusal(path)


def test_a_damaged_byte_is_told_of_or_changes_nothing(tmp_path, monkeypatch):
    """Of which benchmarks/damage.py makes more."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import damage  # pyright: ignore[reportMissingImports]

    folder = tmp_path / "weights"
    folder.mkdir()
    params, buffers = torch_layout.arrays_of("trm", width=8, cells=4)
    torch_layout.save(torch_layout.trained(params | buffers), folder / "step_1")
    subject = {folder: damage.WEIGHTS_READ_BY}
    flips = list(damage.damage(subject, tmp_path, 40, 0, tmp_path / "copy"))
    assert [flip for flip in flips if flip.fault] == []
    assert {flip.outcome for flip in flips} == {"same", "said"}


def test_a_changed_pickle_is_refused_or_read(tmp_path, monkeypatch):
    """Of which benchmarks/damage_pickles.py makes more."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import damage_pickles  # pyright: ignore[reportMissingImports]

    seen = list(damage_pickles.outcomes(100, 0, tmp_path))
    assert [pair for pair in seen if pair[0] not in ("read", "refused")] == []
    assert {outcome for outcome, _ in seen} == {"read", "refused"}


# --- the configuration beside a checkpoint

CONFIG = """\
arch:
  H_cycles: 3
  expansion: 4
  loss:
    loss_type: stablemax_cross_entropy
  mlp_t: false
  name: recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1
  pos_encodings: rope
  rms_norm_eps: 1.0e-05
checkpoint_path: checkpoints/Arc-aug-1000-ACT-torch/HierarchicalReasoningModel_ACTV1
  placid-husky
data_paths:
- data/arc-aug-1000
evaluators:
- name: arc@ARC
load_checkpoint: null
"""


def test_the_fields_of_the_model_in_a_configuration(tmp_path):
    path = tmp_path / "all_config.yaml"
    path.write_text(CONFIG)
    assert read_config(path) == {
        "H_cycles": 3,
        "expansion": 4,
        "loss": {"loss_type": "stablemax_cross_entropy"},
        "mlp_t": False,
        "name": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
        "pos_encodings": "rope",
        "rms_norm_eps": 1e-5,
    }
    path.write_text("H_cycles: 3\nhidden_size: 512\n")
    assert read_config(path) == {"H_cycles": 3, "hidden_size": 512}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arch: [1, 2]", "no table of the fields"),
        ("", "no table of the fields"),
        ("a: [", "is not valid YAML"),
        ("arch: !!python/object/apply:os.system ['touch ran']", "is not valid YAML"),
        ("[" * 1000, "is not valid YAML"),
        ("a" * (1 << 21), "no configuration"),
        ("a: 2001-99-99", "is not valid YAML"),
    ],
)
def test_what_is_no_configuration(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_config("c.yaml")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_configuration_without_pyyaml(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(InputError, match=r"pip install pyyaml, or give its fields by"):
        read_config(tmp_path / "c.yaml")


def test_objects_beside_the_weights_are_placeholders(tmp_path):
    saved = {
        "settings": placed("omegaconf.dictconfig.DictConfig", _content={"a": Tensor([1.0])}),
        "carry": placed("models.eqr.ModelCarry", steps=1),
        "numpy": np.arange(700, dtype=np.uint32),
        "default": collections.defaultdict(list, {"a": [1]}),
    }
    read = read_weights(torch_layout.save(saved, tmp_path / "eqr.pth"))
    assert {name: value.name for name, value in read.items()} == {
        "settings": "omegaconf.dictconfig.DictConfig",
        "carry": "models.eqr.ModelCarry",
        "numpy": "numpy._core.multiarray._reconstruct",
        "default": "collections.defaultdict",
    }
