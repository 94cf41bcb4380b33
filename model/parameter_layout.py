"""How a network's tensors lie in flat vectors, and how those are cut over devices.

Each segment of the flat layout has a rule of its own in the store:

    decayed      kernels: optimizer and weight decay      sent in the wire types
    plain        other trainable parameters: optimizer    sent in the wire types
    statistics   moving means and variances               sent in float32
"""

import dataclasses

import numpy as np

MAX_BLOCK = 1 << 21  # elements: 8 MB of float32, so that casting, sending and applying overlap
MIN_BLOCK = 1 << 16  # a smaller segment is not worth a message to every ps


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One of the network's tensors: its path (`block1_conv1/kernel`) and shape."""

    path: str
    shape: tuple[int, ...]

    @property
    def size(self):
        return int(np.prod(self.shape))


@dataclasses.dataclass(frozen=True)
class Layout:
    """The network's tensors by segment. Everything else follows from their order."""

    decayed: tuple[Tensor, ...]
    plain: tuple[Tensor, ...]
    statistics: tuple[Tensor, ...]

    @classmethod
    def of(cls, network):
        """The layout of a built Keras model. Kernels, and only they, are decayed (section 4.3)."""
        segments: dict[str, list[Tensor]] = {"decayed": [], "plain": [], "statistics": []}
        for variable in network.weights:  # the state of random generators is not among them
            tensor = Tensor(variable.path, tuple(variable.shape))
            if not variable.trainable:
                if not variable.dtype.startswith("float"):
                    raise ValueError(
                        f"The store holds parameters and statistics in floating point. Received: "
                        f"{variable.path} of type {variable.dtype}."
                    )
                segments["statistics"].append(tensor)
            elif variable.path.endswith("kernel"):
                segments["decayed"].append(tensor)
            else:
                segments["plain"].append(tensor)
        return cls(**{name: tuple(tensors) for name, tensors in segments.items()})

    def segments(self):
        """[(name, tensors)] in the order of the store."""
        return [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]

    def flatten(self, values):
        """{segment: float32 vector} from {path: array}."""
        return {
            name: np.concatenate(
                [np.ravel(values[t.path]).astype(np.float32) for t in tensors]
                or [np.zeros(0, np.float32)]
            )
            for name, tensors in self.segments()
        }

    def unflatten(self, vectors):
        """{path: array} from {segment: vector}; a segment that is absent is left out."""
        values = {}
        for name, tensors in self.segments():
            if name in vectors:
                ends = np.cumsum([t.size for t in tensors])
                pieces = np.split(vectors[name], ends[:-1])
                for tensor, piece in zip(tensors, pieces, strict=True):
                    values[tensor.path] = piece.reshape(tensor.shape)
        return values


@dataclasses.dataclass(frozen=True)
class Placement:
    """A piece of a segment and the device that holds it."""

    segment: str
    size: int
    device: str


def place(layout, devices):
    """[Placement]: every segment cut evenly, the pieces spread so that the loads are level.

    A large segment is cut into equal pieces, the same number on each device; a small one stays
    whole on the device with the least so far.
    """
    loads = dict.fromkeys(devices, 0)
    placements = []
    for name, tensors in layout.segments():
        total = sum(t.size for t in tensors)
        if total == 0:
            continue
        num_pieces = 1
        if total >= MIN_BLOCK * len(devices):
            num_pieces = len(devices) * -(-total // (MAX_BLOCK * len(devices)))
        for i in range(num_pieces):
            size = total * (i + 1) // num_pieces - total * i // num_pieces
            device = min(devices, key=lambda device: loads[device])
            loads[device] += size
            placements.append(Placement(name, size, device))
    return placements
