"""The playground: a painting that is steered while it is painted, in JupyterLab, in Colab and as a web app."""

from .playground import Playground

__all__ = ["Playground"]
