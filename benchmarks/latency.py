"""The answer for one: one image through a LeNet, one token through a transformer's block.

pip install torch onnx onnxruntime
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
python benchmarks/latency.py [--rounds N] [--length N]

The image: `Model.outputs`, the predictor of `Model.compile`, PyTorch's module, and our ONNX file in
onnxruntime. The token: a block of width 64, 4 heads, hidden layer 256, gelu, normalised first, with
keys and values of the tokens before in a cache with room for `--length`; by calls, by
`tinynn.compile` with the cache donated, by PyTorch in place into a cache of its own, and by the
block's ONNX file, whose caches are inputs and outputs. float32, one thread, processor time, the
least of rounds in turn; the answers agree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import click
import numpy as np
import onnxruntime
import torch
from convolutional import WORKS, nested, network, put_at_start, torch_network
from transformer import HEADS, WIDTH, start_of

import tinynn
from tinynn.layers import Layer, MultiHeadAttention, TransformerEncoderBlock

F, Calls = torch.nn.functional, dict[str, Callable[[], Any]]
BLOCK = TransformerEncoderBlock(MultiHeadAttention(HEADS, causal=True))


@dataclass(frozen=True)
class Token(Layer):
    """The block, with the arrays of a cache as inputs."""

    def forward(self, scope: Any, x: Any, key: Any, value: Any, index: Any) -> Any:
        cache = {"key": key, "value": value, "index": index[0, ...]}
        y, cache = scope("block", BLOCK, x, cache)
        return {"y": y, "key": cache["key"], "value": cache["value"]}


def in_onnxruntime(model: Any, inputs: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with TemporaryDirectory() as folder:
        file = Path(folder) / "net.onnx"
        model.to_onnx(file, inputs)
        return onnxruntime.InferenceSession(file, options)


def image() -> Calls:
    work = next(work for work in WORKS if work.title == "LeNet")
    image = work.data()[0][:1]
    model = tinynn.Model(network(work)[0], nested(work, work.start()), {})
    theirs, given = torch_network(work), torch.from_numpy(image).permute(0, 3, 1, 2).contiguous()
    put_at_start(work, theirs)
    session, compiled = in_onnxruntime(model, image), model.compile(image)
    name = session.get_inputs()[0].name

    def of_torch() -> Any:
        with torch.inference_mode():
            return theirs(given).numpy()

    return {
        "PyTorch": of_torch,
        "tinynn, by calls": lambda: model.net(model.params, image),
        "tinynn, compiled": lambda: compiled(image),
        "onnxruntime": lambda: session.run(None, {name: image})[0],
    }


def token(length: int) -> Calls:
    place, x = length // 2, np.random.default_rng(1).normal(size=(1, length, WIDTH)).astype("f4")
    params = BLOCK.init(0, x)[0]
    one = np.ascontiguousarray(x[:, place : place + 1])
    _, before = BLOCK(params, x[:, :place], BLOCK.cache(x, x.shape))
    index = np.asarray(place, dtype="int32")
    step = tinynn.compile(lambda p, x, cache: BLOCK(p, x, cache), donate_argnums=(2,))
    # Each writes the same token to the same place, over and over.
    held = [{name: before[name].copy() for name in ("key", "value")}]

    def compiled() -> Any:
        y, cache = step(params, one, {**held[0], "index": index.copy()})
        held[0] = {"key": cache["key"], "value": cache["value"]}
        return y

    net = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
    )
    net.load_state_dict(start_of(params))
    keys, values = (torch.tensor(before[n]).transpose(1, 2).contiguous() for n in ("key", "value"))
    own, given, heads = net.self_attn, torch.tensor(one), (1, 1, HEADS, WIDTH // HEADS)

    def of_torch() -> Any:
        with torch.inference_mode():
            qkv = F.linear(net.norm1(given), own.in_proj_weight, own.in_proj_bias)
            q, k, v = (a.view(heads).transpose(1, 2) for a in qkv.chunk(3, -1))
            keys[:, :, place : place + 1], values[:, :, place : place + 1] = k, v
            seen = keys[:, :, : place + 1], values[:, :, : place + 1]
            mixed = F.scaled_dot_product_attention(q, *seen).transpose(1, 2).reshape(1, 1, WIDTH)
            y = given + F.linear(mixed, own.out_proj.weight, own.out_proj.bias)
            return (y + net.linear2(F.gelu(net.linear1(net.norm2(y))))).numpy()

    arrays = (one, before["key"], before["value"], index[None])
    session = in_onnxruntime(tinynn.Model(Token(), {"block": params}), arrays)
    feeds = dict(zip([each.name for each in session.get_inputs()], arrays, strict=True))
    wanted = [each.name for each in session.get_outputs() if tuple(each.shape[1:]) == (1, WIDTH)]
    caches = [each.name for each in session.get_outputs() if each.name not in wanted]
    return {
        "PyTorch": of_torch,
        "tinynn, by calls": lambda: BLOCK(params, one, before | {"index": index})[0],
        "tinynn, compiled": compiled,
        "onnxruntime": lambda: session.run([*wanted, *caches], feeds)[0],
    }


@click.command()
@click.option("--rounds", default=100, show_default=True)
@click.option("--length", default=128, show_default=True, help="Of the cache.")
def main(rounds: int, length: int) -> None:
    torch.set_num_threads(1)
    print(f"microseconds of the processor, the least of {rounds} rounds in turn")
    for title, calls in (("one image", image()), (f"one token of {length}", token(length))):
        expected = calls["PyTorch"]()
        for call in calls.values():
            np.testing.assert_allclose(np.asarray(call()), expected, rtol=1e-3, atol=1e-4)
        least = dict.fromkeys(calls, np.inf)
        for _ in range(rounds):
            for who, call in calls.items():
                start = process_time()
                for _ in range(20):
                    call()
                least[who] = min(least[who], (process_time() - start) / 20)
        for who, time in least.items():
            ratio = time / least["PyTorch"]
            print(f"{title}: {who} {1e6 * time:.0f} us, {ratio:.2f} of PyTorch's")


if __name__ == "__main__":
    main()
