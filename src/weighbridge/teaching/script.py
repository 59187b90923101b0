"""The plain PyTorch script of a training that the Lab shows: the same numbers, bit for bit, without weighbridge."""

from __future__ import annotations

import inspect
from typing import Final

from torch import nn

from weighbridge.teaching import networks
from weighbridge.teaching.planes import PLANES, bent, sums
from weighbridge.teaching.training import ORDER_SEED, Loop
from weighbridge.teaching.words import optimizer_arguments

_OWN: Final = {**PLANES, "tutorial": sums, "bends": bent}

_HEAD: Final = '''"""{title}: what the Lab of weighbridge trained, in plain PyTorch. Prints the loss of each step."""

import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)  # sums of several threads may be rounded differently

'''

_BATCHES: Final = '''
def batches(size):
    """Row numbers of the steps of one epoch; a last single row joins the step before."""
    if size >= len(inputs):
        return [torch.arange(len(inputs))]
    pieces = list(torch.split(torch.randperm(len(inputs), generator=order_of_rows), size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


'''

_LOOP: Final = """for step in range({steps}):
{changes}    if not ahead:
        ahead = batches(size)
    rows = ahead.pop(0)
    optimizer.zero_grad()
    loss = measure(model(inputs[rows]), targets[rows])
    loss.backward()
    optimizer.step()
    print(step, loss.item())
"""


def script(loop: Loop) -> str:
    """As far as this training has come, with the rates and batches that were changed on the way."""
    of, data = loop.options, loop.data
    sizes = "-".join(map(str, of.sizes(data)))
    return "".join(
        [
            _HEAD.format(title=f"{data.name}, {sizes}, {'no activation' if of.activation == 'none' else of.activation}"),
            *_data(loop),
            *_network(loop),
            _optimizer(loop),
            *_training(loop),
        ]
    )


def _data(loop: Loop) -> list[str]:
    data, seed = loop.data, loop.training.seed
    if data.name in _OWN:
        made = _OWN[data.name]
        lines = ["\n", inspect.getsource(made), "\n\n", f"x, y = {made.__name__}()\n"]
    else:
        lines = [f"from sklearn.datasets import load_{data.name}\n\n", f"x, y = load_{data.name}(return_X_y=True)\n"]
        if data.task == "regression":
            lines.append("y = y.astype(np.float64)[:, None]\n")
    if data.held_out:
        lines += [
            f"order = torch.randperm(len(x), generator=torch.Generator().manual_seed({seed})).numpy()\n",
            f"kept = order[{data.held_out}:]  # the first {data.held_out} are kept from training, for the score\n",
        ]
    else:
        lines.append("kept = np.arange(len(x))\n")
    lines.append(_treated("x", "inputs", loop) + "inputs = torch.from_numpy(x.astype(np.float32))[kept]\n")
    if data.task == "classification":
        one = loop.options.sizes(data)[-1] == 1
        lines.append("targets = torch.from_numpy(y)[kept]" + (".float()[:, None]\n" if one else ".long()\n"))
    else:
        lines.append(_treated("y", "targets", loop) + "targets = torch.from_numpy(y.astype(np.float32))[kept]\n")
    return lines


def _treated(name: str, part: str, loop: Loop) -> str:
    of, data = loop.options, loop.data
    centred, scaled = of.treats("centre", part, data), of.treats("scale", part, data)
    lines = [f"mean, spread = {name}[kept].mean(axis=0), {name}[kept].std(axis=0)\n"] if centred or scaled else []
    if scaled:
        lines.append(f"{name} = ({name} - {'mean' if centred else '0.0'}) / np.where(spread > 0, spread, 1.0)\n")
    elif centred:
        lines.append(f"{name} = {name} - mean\n")
    return "".join(lines)


def _network(loop: Loop) -> list[str]:
    of = loop.options
    shown = "".join(f"    {_module(module)},\n" for module in loop.model)
    lines = [f"\ntorch.manual_seed({loop.training.seed})\n", f"model = nn.Sequential(\n{shown})\n"]
    places = [(i, module) for i, module in enumerate(loop.model) if isinstance(module, nn.Linear)]
    bare = [i for i, module in places if module.bias is None]
    lines += [f"model[{i}].bias = None{_why(n)}\n" for n, i in enumerate(bare)]
    for i, module in places:
        lines += [_start(f"model[{i}].weight", of.init)]
        lines += [_start(f"model[{i}].bias", of.init_bias)] if module.bias is not None else []
    return lines


def _why(number: int) -> str:
    return "  # made and dropped, so that the weights are those of the network with biases" if number == 0 else ""


def _module(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return f"nn.Linear({module.in_features}, {module.out_features})"
    if isinstance(module, nn.BatchNorm1d):
        return f"nn.BatchNorm1d({module.num_features})"
    if isinstance(module, nn.LayerNorm):
        return f"nn.LayerNorm({module.normalized_shape[0]})"
    return f"nn.{type(module).__name__}()"


_STARTS: Final = {
    "xavier": "xavier_uniform_({})", "xavier_normal": "xavier_normal_({})", "orthogonal": "orthogonal_({})",
    "he": 'kaiming_uniform_({}, nonlinearity="relu")', "he_normal": 'kaiming_normal_({}, nonlinearity="relu")',
    "zeros": "zeros_({})", "ones": "ones_({})", "constant": "constant_({}, {number})",
    "normal": "normal_({}, std={number})", "uniform": "uniform_({}, -{number}, {number})",
}  # fmt: skip


def _start(parameter: str, word: str) -> str:
    name, _, number = word.partition(":")
    return "" if name == "default" else f"nn.init.{_STARTS[name].format(parameter, number=number)}\n"


def _optimizer(loop: Loop) -> str:
    word = loop.options.optimizer
    arguments = {"lr": networks.learning_rate(loop.options)} | optimizer_arguments(word)
    said = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"optimizer = torch.optim.{type(loop.optimizer).__name__}(model.parameters(), {said})\n"


def _training(loop: Loop) -> list[str]:
    """The loop; simpler where every step takes all rows."""
    loss = networks.make_loss(loop.options.loss_for(loop.data))
    steps = len(loop.training.step_losses)
    size = loop.options.batch_for(loop.rows)
    rates = {step: value for step, what, value in loop.changes if what == "rate"}
    sizes = {step: int(value) for step, what, value in loop.changes if what == "batch"}
    lines = [f"measure = nn.{type(loss).__name__}()\n"]
    changes = ""
    if rates:
        lines.append(f"rates = {rates}  # from this step on, by hand\n")
        changes += (
            '    if step in rates:\n        for group in optimizer.param_groups:\n            group["lr"] = rates[step]\n'
        )
    if not sizes and size >= loop.rows:
        body = _LOOP.format(steps=steps, changes=changes).replace("    if not ahead:\n        ahead = batches(size)\n", "")
        body = (
            body.replace("    rows = ahead.pop(0)\n", "").replace("inputs[rows]", "inputs").replace("targets[rows]", "targets")
        )
        return [*lines, "\n", body]
    if sizes:
        lines.append(f"sizes = {sizes}  # rows of a step from this step on, by hand\n")
        changes += "    if step in sizes:\n        size, ahead = sizes[step], []\n"
    lines.append(f"order_of_rows = torch.Generator().manual_seed({loop.training.seed + ORDER_SEED})\n")
    return [*lines, f"size, ahead = {size}, []\n\n", _BATCHES, _LOOP.format(steps=steps, changes=changes)]
