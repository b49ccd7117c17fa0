"""The errors of functions, layers and losses about their inputs."""


class InputError(ValueError):
    """An input, most often an array, does not fit a layer or a loss.

    path: where the layer stands in the network, "2" or "2.inner"; each scope that the error
    passes through puts the name of its child in front.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.path = ""

    def __str__(self) -> str:
        message = super().__str__()
        return f"layer {self.path}, {message}" if self.path else message


class ShapeError(InputError):
    """The shape of an array does not fit a layer or a loss."""


class DtypeError(InputError):
    """The dtype of an array does not fit a layer or a loss."""
