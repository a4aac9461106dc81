"""Transfer: another model's weights as a start, whatever fits as it is, the rest resized or fresh, and told."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from tessella.errors import InputError


def transfer(
    model: nn.Module, weights: Mapping[str, Tensor], say: Callable[[str], None], why: str = "the classes are others"
) -> None:
    """Fills a model from a state dict of its own architecture, but for the head.

    A tensor of another shape goes through the `adapted(name, tensor)` of the module that owns it (positions of another
    image size, biases of another window); what the head (`head.*`) cannot take stays fresh. Each of these is said, with
    `why` the head is. Raises InputError where anything else is missing, left over or of another shape.
    """
    own = model.state_dict()
    odd = sorted(name for name in own.keys() ^ weights.keys() if not name.startswith("head."))
    if odd:
        whose = "new model" if odd[0] in own else "run to start from"
        raise InputError(f"only the {whose} has '{odd[0]}' ({len(odd)} such names); they are different architectures")
    filled, changed, fresh = dict(own), [], []
    for name, mine in own.items():
        theirs = weights.get(name)
        if theirs is not None and theirs.shape == mine.shape:
            filled[name] = theirs
        elif name.startswith("head."):
            fresh.append(name)
        else:
            assert theirs is not None
            filled[name] = _adapted(model, name, theirs)
            changed.append(f"{name} from {_size(theirs)} to {_size(mine)}")
    model.load_state_dict(filled)
    if changed:
        say(f"resized: {changed[0]}{f' and {len(changed) - 1} more' if len(changed) > 1 else ''}")
    if fresh:
        say(f"the head is fresh ({', '.join(fresh)}): {why}")


def freeze(model: nn.Module) -> None:
    """Only the head learns; all else stays in eval mode, whatever mode the model is put in."""
    for name, part in model.named_children():
        if name != "head":
            still(part)


def still(part: nn.Module) -> None:
    """It does not learn, and stays in eval mode."""
    part.requires_grad_(False).eval()
    part.train = lambda mode=True: part


def _adapted(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    adapt = getattr(module, "adapted", None)
    if adapt is None:
        wanted = _size(module.get_parameter(last))
        raise InputError(f"'{name}' is {_size(tensor)} in the run to start from, {wanted} in the new model")
    return adapt(last, tensor)


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
