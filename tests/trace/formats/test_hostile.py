"""Files that want to run, to fill the memory, or that lie about their size."""

import io
import json
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from tests.trace.formats.samples import EXPERTS, npy, safetensors, torch_file
from ultraep_sim.errors import TraceError
from ultraep_sim.trace.formats import ReadOptions, open_dump

OPTIONS = ReadOptions(experts=EXPERTS, top_k=2, layers=2)
MEMORY = 96 << 20


class Bomb:
    """Pickles to a call that writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def refused(path, needle):
    """One line, without allocating what the file claims."""
    tracemalloc.start()
    try:
        with pytest.raises(TraceError, match=needle) as caught:
            list(open_dump(path, OPTIONS).records())
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_in_a_pt_file_does_not_run(protocol, tmp_path):
    mark = tmp_path / "ran"
    for value in (Bomb(mark), {"logical_count": Bomb(mark)}, [Bomb(mark)]):
        data = pickle.dumps(value, protocol=protocol)
        archive(tmp_path / "a.pt", {"archive/data.pkl": data})
        refused(tmp_path / "a.pt", "nothing was run")
    assert not mark.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x02ctorch\nload\nX\x01\x00\x00\x00a\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN\x85R.",
        b"\x80\x02}q\x00(cos\nsystem\nK\x01u.",
    ],
)
def test_code_in_pickles_is_refused_by_name(code, tmp_path):
    archive(tmp_path / "a.pt", {"archive/data.pkl": code})
    refused(tmp_path / "a.pt", "nothing was run|cannot be read")


def test_a_bare_pickle_is_not_read(tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Bomb(mark)))
    refused(tmp_path / "a.pkl", "never read")
    assert not mark.exists()


def test_objects_in_npy_and_npz_do_not_run(tmp_path):
    mark = tmp_path / "ran"
    array = np.array([Bomb(mark)], dtype=object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", loads=array)
    for name in ("a.npy", "a.npz"):
        refused(tmp_path / name, "objects")
    assert not mark.exists()


def claimed_npy(shape, dtype="<i4"):
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape})
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64


@pytest.mark.parametrize("shape", [(10**12, 8), (10**6, 2, 10**6), (2**40,), (2**62, 2**62)])
def test_a_header_that_claims_the_world_is_refused(shape, tmp_path):
    (tmp_path / "a.npy").write_bytes(claimed_npy(shape))
    refused(tmp_path / "a.npy", "claims")
    archive(tmp_path / "a.npz", {"loads.npy": claimed_npy(shape)}, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "a.npz", "claims")


def test_a_zip_bomb_is_refused(tmp_path):
    rows = 1 << 22
    shape = (rows, 2, EXPERTS)
    head = claimed_npy(shape)[:-64]
    zeros = b"\0" * (rows * 2 * EXPERTS * 4)
    archive(tmp_path / "a.npz", {"loads.npy": head + zeros}, zipfile.ZIP_DEFLATED)
    del zeros
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
    refused(tmp_path / "a.npz", "zip bomb")


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    plain = archive(tmp_path / "a.npz", {"loads.npy": npy(np.ones((3, 2, EXPERTS), np.int64))})
    data = plain.read_bytes()
    size = 128 + 3 * 2 * EXPERTS * 8
    for claim in (0, size - 8, size + 8, 2**31 - 1):
        plain.write_bytes(
            data.replace(struct.pack("<II", size, size), struct.pack("<II", size, claim))
        )
        refused(plain, "claims|cannot be read|ends after")


def test_safetensors_that_lie_are_refused(tmp_path):
    good = safetensors({"0_0": np.ones(EXPERTS, np.int64)})
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])
    cases = [
        {"shape": [10**12], "data_offsets": [0, 8 * 10**12]},
        {"shape": [10**12]},
        {"data_offsets": [0, 10**15]},
        {"data_offsets": [64, 0]},
        {"data_offsets": [-64, 0]},
        {"shape": [-8]},
        {"dtype": "I128"},
        {"shape": "8"},
    ]
    for change in cases:
        text = json.dumps({"0_0": {**header["0_0"], **change}}).encode()
        path = tmp_path / "a.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + good[8 + length :])
        refused(path, "tensor 0_0")
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2**50) + b"{" + good[8:])
    refused(tmp_path / "a.safetensors", "header")


def test_a_tensor_may_not_claim_more_than_its_storage(tmp_path):
    good = torch_file(np.arange(16).reshape(2, 8))
    wide = good
    for shape, stride in (((2, 8), (0, 0)), ((2**30, 8), (0, 0)), ((2, 8), (8, 2**40))):
        raw = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(wide)) as source, zipfile.ZipFile(raw, "w") as out:
            for name in source.namelist():
                data = source.read(name)
                if name.endswith(".pkl"):
                    ints = [struct.pack("<i", n) for n in (2, 8, 8, 1)]
                    old = (
                        b"(J" + ints[0] + b"J" + ints[1] + b"t(J" + ints[2] + b"J" + ints[3] + b"t"
                    )
                    assert old in data
                    new = b"(" + b"".join(map(long, shape)) + b"t("
                    data = data.replace(old, new + b"".join(map(long, stride)) + b"t")
                out.writestr(name, data)
        (tmp_path / "a.pt").write_bytes(raw.getvalue())
        if stride == (0, 0) and shape == (2, 8):
            continue  # an expanded tensor of as many elements is allowed
        refused(tmp_path / "a.pt", "claims more elements")


def long(value):
    raw = value.to_bytes(8, "little")
    return b"\x8a" + bytes([len(raw)]) + raw


def test_a_list_inside_itself_and_shared_lists_end(tmp_path):
    inside = b"\x80\x02]q\x00h\x00a."
    archive(tmp_path / "a.pt", {"archive/data.pkl": inside})
    refused(tmp_path / "a.pt", "no format that is read")
    layers = b"\x80\x02]q\x00" + b"".join(
        b"](" + bytes([ord("h"), at]) * 9 + b"e" + b"q" + bytes([at + 1]) for at in range(40)
    )
    archive(tmp_path / "b.pt", {"archive/data.pkl": layers + b"."})
    refused(tmp_path / "b.pt", "nested too deeply")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"logical_count": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"logical_count": [[1, NaN]]}',
        '{"logical_count": [[1, "' + "x" * 100_000 + '"]' + ", [1, 2]" * 10_000 + "]}",
        '{"logical_count": [[1, 2], [3]]}',
        '{"logical_count": [[1, ' + "9" * 400 + "]]}",
        '{"logical_count": [[1.5, 2]]}',
        '{"logical_count": 3}',
        '{"load_history": [{}]}',
        '{"window_expert_load": [[1]], "physical_to_logical_map": [[-7]]}',
        '{"window_expert_load": [[1]], "physical_to_logical_map": [[99999999]]}',
        '{"layer": 0, "iteration": 0, "topk_indices": [[1, 900]]}',
        '{"routed_experts": "%%%"}',
        '{"routed_experts": "AAAA"}',
    ],
)
def test_odd_json_is_one_line(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    refused(tmp_path / "a.json", "a.json")


def test_not_a_file(tmp_path):
    with pytest.raises(TraceError, match="no such file"):
        open_dump(tmp_path / "no.npz")
    with pytest.raises(TraceError, match="holds no dump"):
        open_dump(tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    refused(tmp_path / "empty", "of no kind that is read")
    with pytest.raises(TraceError, match="not a regular file"):
        open_dump(type(tmp_path)("/dev/null"))
